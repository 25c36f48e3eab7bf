"""Every encoder family that colbert-ai loads, and jobs in which something cannot be recorded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.directory import index_tensors
from harness.home import Home
from harness.inputs.checkpoint import ENCODERS, load_checkpoint_local
from harness.running.job import worker_copy
from harness.tensors.safetensors import read_safetensors
from tests.support.tiny_checkpoints import FAMILIES

ROOT = Path(__file__).parents[2]
SETTINGS = {"nbits": 2, "dim": 16, "index_bsize": 8, "doc_maxlen": 64, "kmeans_niters": 2, "partitions": 512}
TOKENS = ("input_ids", "attention_mask")
CAPTURED = {
    "sample_pids", "num_passages", *(f"tensorize_output.{name}" for name in (*TOKENS, "reverse_indices")), "batches",
    "D", "local_sample_embs", "sample", "sample_heldout", "centroids_raw", "centroids_normalized", "embs_0", "codes",
    "values", "ivf_unoptimized",
}  # fmt: skip

_ALL = """
import sys
from harness.worker import __main__ as worker
for folder in sys.argv[1:]:
    worker.main(["", f"{folder}/cell.json", f"{folder}/out"])
"""
"""Many jobs in one process: importing torch and colbert-ai takes longer than each of them."""

_PLANTED = """
import dataclasses, sys
import transformers
from harness.worker import __main__ as worker, capture, index, provenance

def refuses(*_args):
    raise RuntimeError("planted\\nsecond line")

provenance._cpu = refuses
provenance._SWITCHES["num_threads"] = lambda: object()
index.resource.getrusage = refuses
for name in ("BertAttention", "BertSelfAttention"):
    getattr(transformers.models.bert.modeling_bert, name).__name__ = name.replace("Attention", "Mixer")
gone = {"CollectionIndexer._train_kmeans": "CollectionIndexer._gone", "optimize_ivf": "gone.optimize_ivf"}
capture.HOOKS = tuple(dataclasses.replace(hook, path=gone.get(hook.path, hook.path)) for hook in capture.HOOKS)
capture.write_tensor = lambda path, tensor, write=capture.write_tensor: (
    refuses() if "/D.safe" in path or "/sample." in path else write(path, tensor)
)
worker.main(["", f"{sys.argv[1]}/cell.json", f"{sys.argv[1]}/out"])
"""


class Bed:
    """Runs worker jobs in an environment with torch and colbert-ai."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        worker = worker_copy(Home(folder / "home"))
        self.environment = {
            "PATH": "/usr/bin:/bin", "PYTHONPATH": str(worker), "HOME": str(folder), "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore", "PYTHONHASHSEED": "0",
        }  # fmt: skip
        self.checkpoints = folder / "checkpoints"
        (folder / "passages.jsonl").write_text(
            "".join(json.dumps(f"Claim {n} of the office, which decides on topic {n * n}.") + "\n" for n in range(60))
        )

    def make_checkpoints(self, *families: str) -> None:
        """Write tiny checkpoints."""
        self.python_of(str(ROOT / "tests" / "support" / "tiny_checkpoints.py"), str(self.checkpoints), *families)

    def python_of(self, *arguments: str) -> None:
        """Run the environment's interpreter; the fixture's path finds this repository's tests, not its harness."""
        done = subprocess.run(
            [str(self.python), "-W", "ignore", *arguments], env=self.environment, capture_output=True, text=True,
            check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def cell(self, name: str, family: str, **changes: Any) -> Path:
        """Write the request of one job; returns its folder, in which `out` is the job's."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        request = {
            "job": "index", "device": "cpu", "passages": str(self.folder / "passages.jsonl"), "capture": "full",
            "checkpoint": str(self.checkpoints / family), "settings": SETTINGS, **changes,
        }  # fmt: skip
        (folder / "cell.json").write_text(json.dumps(request))
        return folder


def result(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "out" / "result.json").read_text())
    assert isinstance(found, dict)
    return found


def captured(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "out" / "intermediates").iterdir()}


def index_digests(folder: Path) -> dict[str, str]:
    return {name: tensor.digest() for name, tensor in index_tensors(folder / "out" / "index")}


@pytest.fixture(scope="module")
def bed(torch_interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Bed:
    made = Bed(torch_interpreter, tmp_path_factory.mktemp("encoders"))
    made.make_checkpoints(*FAMILIES)
    return made


@pytest.fixture(scope="module")
def runs(bed: Bed) -> dict[str, tuple[Path, Path, Path]]:
    """Of each family an index job, a recording of its first batch, and a replay of that, in folders."""
    found = {}
    for family in FAMILIES:
        index = bed.cell(f"{family}/index", family)
        made = index / "out" / "intermediates"
        request = {
            "step": "encode", "inputs": {n: str(made / f"tensorize_output.{n}.safetensors") for n in TOKENS},
            "rows": {name: [0, 8] for name in TOKENS},
        }  # fmt: skip
        record = bed.cell(f"{family}/record", family, job="record", **request)
        recording = str(record / "out")
        found[family] = (
            index, record, bed.cell(f"{family}/replay", family, job="replay", recording=recording, **request)
        )  # fmt: skip
    bed.python_of("-c", _ALL, *(str(folder) for folders in found.values() for folder in folders))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_any_family_is_indexed_and_everything_of_it_captured(bed, runs, family):
    checkpoint = load_checkpoint_local(bed.checkpoints / family)
    index, _record, _replay = runs[family]
    found = result(index)

    assert checkpoint.source["model_type"] == family
    assert (found["outcome"], found["reason"], found["not_captured"]) == ("ok", "", {})
    assert captured(index) == CAPTURED
    assert index_digests(index)
    module, _, name = found["observed"]["attention_class"].rpartition(".")
    assert module.startswith("transformers.models.")
    assert "Attention" in name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoding_of_any_family_is_recorded_and_replayed_call_by_call(runs, family):
    index, record, replay = runs[family]
    recorded, replayed = result(record), result(replay)
    calls = json.loads((record / "out" / "calls.json").read_text())
    outputs = read_safetensors(record / "out" / "outputs" / "batches.safetensors")["tensor"].data
    batches = read_safetensors(index / "out" / "intermediates" / "batches.safetensors")["tensor"].data

    assert (recorded["outcome"], recorded["reason"]) == ("ok", "")
    assert (replayed["outcome"], replayed["reason"]) == ("ok", "")
    assert recorded["recorder_is_neutral"]
    assert replayed["recorder_is_neutral"]
    assert replayed["outputs"] == recorded["outputs"]
    assert outputs.tobytes() == batches[:8].tobytes()
    assert [one for one in json.loads((replay / "out" / "replay.json").read_text()) if one["status"] != "equal"] == []
    assert {call["kind"] for call in calls} == {"step", "module", "function", "operator"}
    # The attention layers themselves, wherever a family keeps them.
    assert any("attention" in call["name"].lower() for call in calls if call["kind"] == "module")


def test_what_cannot_be_recorded_has_a_reason_and_changes_neither_the_job_nor_the_rest(bed, runs):
    planted = bed.cell("planted", "bert")

    bed.python_of("-c", _PLANTED, str(planted))

    whole, found = runs["bert"][0], result(planted)
    reasons = found["not_captured"]
    assert (found["outcome"], found["reason"]) == ("ok", "")
    artifacts = {"centroids_normalized", "ivf_unoptimized", "D", "sample"}
    facts = {"provenance.cpu", "provenance.switches.num_threads", "observed.attention_class", "peak_memory.host_bytes"}
    assert set(reasons) == artifacts | facts
    assert "_gone" in reasons["centroids_normalized"]
    assert reasons["D"] == reasons["provenance.cpu"] == "RuntimeError: planted"
    assert captured(planted) == CAPTURED - artifacts
    assert index_digests(planted) == index_digests(whole)
    whole_provenance = result(whole)["provenance"]
    assert set(found["provenance"]) == set(whole_provenance) - {"cpu"}
    assert set(found["provenance"]["switches"]) == set(whole_provenance["switches"]) - {"num_threads"}
    assert found["observed"] == {k: v for k, v in result(whole)["observed"].items() if k != "attention_class"}


def test_a_swap_whose_place_is_not_there_ends_the_job_with_the_reason(bed, runs):
    other = runs["bert"][0] / "out" / "intermediates" / "centroids_normalized.safetensors"
    swapped = bed.cell("swapped", "bert", swap={"centroids_normalized": str(other)})

    bed.python_of("-c", _PLANTED, str(swapped))

    found = result(swapped)
    assert found["outcome"] == "crashed"
    assert "never made them: centroids_normalized" in found["reason"]
    assert "_gone" in found["reason"]


_CLASSES = """
import json, sys
from colbert.modeling.hf_colbert import find_class_names, model_object_mapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
known = [t for t in CONFIG_MAPPING_NAMES if find_class_names(t, "model")
         and (find_class_names(t, "pretrainedmodel") or t == "xlm-roberta")]
open(sys.argv[1], "w").write(json.dumps(known))
"""


def test_colbert_ai_has_a_class_for_every_encoder_that_is_accepted(bed, tmp_path):
    bed.python_of("-c", _CLASSES, str(tmp_path / "known.json"))
    known = set(json.loads((tmp_path / "known.json").read_text()))

    assert set(FAMILIES) <= known
    assert known >= ENCODERS
