"""The Hub, through the real client: pinned, verified, retried, and not asked again."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from harness.errors import InfrastructureError, UsageError
from harness.home import Home
from harness.inputs import hub
from harness.inputs.checkpoint import load_checkpoint_hub
from harness.inputs.collection import load_hub
from harness.inputs.loaders import load_queries
from harness.inputs.matrix_file import load_matrix
from tests.support.checkpoints import checkpoint_bytes
from tests.support.hub_server import Fault, HubServer

ROOT = Path(__file__).parents[2]
DATASET, CONFIG = "UKPLab/dapr", "ConditionalQA-corpus"
PARQUET = "ConditionalQA/corpus/test-00000-of-00002.parquet"
PARQUET_2 = "ConditionalQA/corpus/test-00001-of-00002.parquet"
CARD = """---
license: mit
configs:
- config_name: ConditionalQA-corpus
  data_files:
  - split: test
    path: ConditionalQA/corpus/test-*
- config_name: ConditionalQA-queries
  data_files:
  - split: test
    path: ConditionalQA/queries/test.parquet
- config_name: ConditionalQA-qrels
  data_files:
  - split: test
    path: ConditionalQA/qrels/test.parquet
- config_name: other
  data_files: other/*.parquet
---
# A data set
"""


def parquet(start: int, count: int) -> bytes:
    """Rows in the column layout of DAPR; row 3 is blank, as some are there."""
    rows = range(start, start + count)
    table = pa.table(
        {
            "_id": [f"0-{i}" for i in rows],
            "text": ["" if i == 3 else f"Passage number {i} of the collection" for i in rows],
            "title": ["t"] * count,
            "paragraph_no": list(rows),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none")
    return sink.getvalue()


def be_patient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Wait so long for an answer: long where one will come, since the machine may be busy."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", seconds)
    monkeypatch.setattr(hub, "TIMEOUT_S", seconds)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    be_patient(monkeypatch, 60.0)
    monkeypatch.setattr(hub, "BACKOFF_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)  # huggingface_hub pauses between its own attempts
    huggingface_hub.close_session()  # the next session sees NO_PROXY
    with HubServer() as running:
        running.repos["datasets/" + DATASET] = {
            "README.md": CARD.encode(), PARQUET: parquet(0, 60), PARQUET_2: parquet(60, 40), "other/x.parquet": b"x",
        }  # fmt: skip
        running.repos["models/colbert-ir/colbertv2.0"] = {
            **checkpoint_bytes(), "README.md": b"words", "pytorch_model.bin": b"pickle" * 400, "sub/config.json": b"{}",
        }  # fmt: skip
        yield running
        huggingface_hub.close_session()


@pytest.fixture
def load(server, tmp_path):
    """Load the collection from the server."""

    def call(**changes):
        return load_hub(DATASET, CONFIG, "test", **({"cache": tmp_path, "endpoint": server.endpoint} | changes))

    return call


def test_a_split_is_read_in_order_with_its_provenance(server, load):
    passages = load(expected_rows=100)

    assert passages.ids == [f"0-{i}" for i in range(100)]
    assert passages.texts[99] == "Passage number 99 of the collection"
    assert passages.source["revision"] == server.commit("datasets/" + DATASET)
    assert passages.source["blank_rows"] == 1


def test_a_warm_cache_asks_nothing_and_survives_a_branch_that_moves(server, load, monkeypatch):
    first = load()
    asked = len(server.requests)
    server.repos["datasets/" + DATASET]["new.txt"] = b"the branch moved"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    again = load()

    assert len(server.requests) == asked
    assert again.digest == first.digest
    assert again.source == first.source


def test_the_revision_is_in_a_readable_record(server, load, tmp_path):
    load()

    record = json.loads((tmp_path / hub.REVISIONS).read_text())

    assert record[f"datasets/{DATASET}@main"]["commit"] == server.commit("datasets/" + DATASET)


def test_an_unreadable_record_is_one_sentence(load, tmp_path):
    (tmp_path / hub.REVISIONS).write_text('{"a": 1}')

    with pytest.raises(UsageError, match=r"hub-revisions\.json.*delete the file"):
        load()


def test_limit_and_expected_rows(load):
    assert len(load(limit=7)) == 7
    with pytest.raises(UsageError, match=r"has 100 passages .*69,199 are expected"):
        load(expected_rows=69199, limit=7)


def test_a_checkpoint_comes_without_its_pickle_and_without_subfolders(server, tmp_path):
    checkpoint = load_checkpoint_hub("colbert-ir/colbertv2.0", cache=tmp_path, endpoint=server.endpoint)

    assert checkpoint.dim == 16
    assert checkpoint.source["revision"] == server.commit("models/colbert-ir/colbertv2.0")
    assert {path.name for path in checkpoint.path.iterdir()} == set(checkpoint_bytes())
    assert not [line for line in server.requests if "pytorch_model.bin" in line]


def test_a_checkpoint_that_has_only_a_pickle_says_so(server, tmp_path):
    del server.repos["models/colbert-ir/colbertv2.0"]["model.safetensors"]

    checkpoint = load_checkpoint_hub("colbert-ir/colbertv2.0", cache=tmp_path, endpoint=server.endpoint)

    assert checkpoint.source["weights"] == "pytorch_model.bin"


@pytest.mark.parametrize("name", [PARQUET, "README.md"])
def test_a_wrong_checksum_deletes_the_file_and_the_next_try_gets_a_good_one(server, load, tmp_path, name):
    server.faults.append(Fault("corrupt", name, times=1))

    with pytest.raises(InfrastructureError, match=r"wrong checksum and was deleted"):
        load()
    blobs = {path.read_bytes() for path in tmp_path.glob("hub/*/blobs/*")}

    assert blobs <= set(server.repos["datasets/" + DATASET].values())
    assert len(load()) == 100


def test_a_file_that_rots_in_the_cache_is_fetched_again(server, load, tmp_path):
    load()
    (rotten,) = [path for path in tmp_path.rglob(PARQUET) if path.is_file()]
    rotten.resolve().write_bytes(b"rotten")

    assert len(load()) == 100


def test_a_listed_file_that_is_missing(server, load):
    server.faults.append(Fault("missing", PARQUET_2, methods=("HEAD", "GET")))

    with pytest.raises(
        UsageError, match=r"test-00001-of-00002.parquet of UKPLab/dapr: the repository has no such file"
    ):
        load()


def test_a_dropped_connection_is_taken_up_again(server, load):
    server.faults.append(Fault("drop", PARQUET, times=1))

    assert len(load()) == 100
    assert len([line for line in server.requests if line.startswith("GET") and PARQUET in line]) == 2


@pytest.mark.parametrize(("kind", "words"), [("cut", "connection failed"), ("error", "status 500")])
def test_a_fault_that_stays_ends_after_a_bounded_number_of_attempts(server, load, kind, words):
    server.faults.append(Fault(kind, PARQUET))

    with pytest.raises(InfrastructureError, match=rf"{words}.*{hub.ATTEMPTS} times in a row"):
        load()
    assert len(server.requests) < 100


def test_server_errors_that_pass_do_no_harm(server, load):
    server.faults += [Fault("error", "api/", times=2), Fault("error", PARQUET, times=2)]

    assert len(load()) == 100


def test_a_hub_that_goes_silent_is_given_up(server, load, monkeypatch):
    be_patient(monkeypatch, 0.3)
    server.faults.append(Fault("stall", "api/"))

    with pytest.raises(InfrastructureError, match="connection failed"):
        load()


def test_no_network_and_a_cold_cache_is_wrong_use_with_a_mend(load, monkeypatch):
    instead = "do without the Hub: --collection embedded --checkpoint embedded, or files of your own, --collection FILE"
    with pytest.raises(UsageError, match=f"the Hub cannot be reached; go online for one run, or {instead}"):
        load(endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"not in the cache, and HF_HUB_OFFLINE is set"):
        load()


def test_names_the_hub_does_not_know(server, load, tmp_path):
    with pytest.raises(UsageError, match="no config Nope; it has ConditionalQA-corpus, ConditionalQA-qrels, "):
        load_hub(DATASET, "Nope", "test", cache=tmp_path, endpoint=server.endpoint)
    with pytest.raises(UsageError, match="no split dev; it has test"):
        load_hub(DATASET, CONFIG, "dev", cache=tmp_path, endpoint=server.endpoint)
    with pytest.raises(UsageError, match="no such repository"):
        load_hub("no/body", CONFIG, "test", cache=tmp_path, endpoint=server.endpoint)
    with pytest.raises(UsageError, match="no such revision"):
        load(revision="v9")
    with pytest.raises(UsageError, match="Cannot fetch the dataset repository a/b/c"):
        load_hub("a/b/c", CONFIG, "test", cache=tmp_path, endpoint=server.endpoint)


def test_a_card_without_the_files_it_names(server, load):
    del server.repos["datasets/" + DATASET][PARQUET]
    del server.repos["datasets/" + DATASET][PARQUET_2]

    with pytest.raises(UsageError, match=r"no file matches ConditionalQA/corpus/test-\*"):
        load()


@pytest.mark.parametrize(
    ("data_files", "expected"),
    [
        ("[{split: test, path: a.parquet}]", ["a.parquet"]),
        ("[{split: test, path: [a, b]}]", ["a", "b"]),
        ("{test: [a], train: b}", ["a"]),
    ],
)
def test_every_shape_of_data_files_gives_its_patterns(data_files, expected):
    card = f"---\nconfigs:\n- config_name: c\n  data_files: {data_files}\n---\n"

    assert hub.split_patterns(card, "n", "c", "test") == expected


def test_files_without_a_split_are_train():
    card = "---\nconfigs:\n- config_name: c\n  data_files: x/*.parquet\n---\n"

    assert hub.split_patterns(card, "n", "c", "train") == ["x/*.parquet"]


@pytest.mark.parametrize("card", ["", "# Title\n---\nconfigs: 1\n---\n", "---\n[\n---\n", "---\nconfigs: 3\n---\n"])
def test_a_card_that_defines_nothing_is_a_sentence(card):
    with pytest.raises(UsageError):
        hub.split_patterns(card, "n", "c", "test")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a/test-*", "a/test-0.parquet", "a/b/test-0.parquet"),
        ("a/*.parquet", "a/x.parquet", "a/b/x.parquet"),
        ("a/**/*.parquet", "a/b/c/x.parquet", "b/x.parquet"),
        ("a/**/*.parquet", "a/x.parquet", "a/x.csv"),
        ("x.parquet", "x.parquet", "xxparquet"),
    ],
)
def test_a_pattern_stops_at_a_slash_unless_it_says_otherwise(pattern, matching, other):
    assert hub.glob_expression(pattern).fullmatch(matching)
    assert not hub.glob_expression(pattern).fullmatch(other)


def test_queries_and_qrels_come_from_the_configs_that_the_matrix_names(server, tmp_path, monkeypatch):
    def table(columns: dict[str, list[object]]) -> bytes:
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink)
        return sink.getvalue()

    server.repos[f"datasets/{DATASET}"] |= {
        "ConditionalQA/queries/test.parquet": table({"_id": ["q1", "q2"], "text": ["where?", "when?"]}),
        "ConditionalQA/qrels/test.parquet": table({"query_id": ["q1"], "corpus_id": ["0-7"], "score": [1]}),
    }
    monkeypatch.setattr(hub, "dataset_files", functools.partial(hub.dataset_files, endpoint=server.endpoint))
    passages = load_hub(DATASET, CONFIG, "test", cache=Home(tmp_path).data_cache, endpoint=server.endpoint)

    matrix = load_matrix(ROOT / "matrix.yaml")
    queries, qrels = load_queries(matrix, tmp_path, Home(tmp_path), "dapr-conditionalqa", passages)

    assert (queries.ids, queries.source["config"]) == (["q1", "q2"], "ConditionalQA-queries")
    assert queries.source["revision"] == passages.source["revision"]
    assert qrels is not None
    assert qrels.grades == {"q1": {"0-7": 1}}
