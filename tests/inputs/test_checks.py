"""What is certain to fail is refused, with the mend, and what may work is not."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.files import writable_file, writable_folder
from harness.inputs.checkpoint import CheckpointFiles
from harness.inputs.collection import load_embedded
from harness.inputs.jobs import IndexJob
from harness.inputs.limits import can_be_clustered, chunks_of, job_runs, partitions
from harness.inputs.passages import Passages
from harness.running.causes import MENDS, with_mend


def checkpoint(dim: int) -> CheckpointFiles:
    return CheckpointFiles("ck", Path("ck"), "digest", dim, {})


def passages(*texts: str) -> Passages:
    return Passages([str(n) for n in range(len(texts))], list(texts), "mine", {})


def refusal(nbits: int, dim: int) -> str:
    with pytest.raises(UsageError) as caught:
        job_runs(IndexJob(nbits=nbits), checkpoint(dim), load_embedded(10))
    return str(caught.value)


@pytest.mark.parametrize(
    ("nbits", "dim", "works"), [(8, 96, "1 or 2 or 4"), (4, 48, "1 or 2"), (2, 8, "1"), (4, 80, "1 or 2")]
)
def test_bits_that_cannot_be_packed_are_refused_with_those_that_can(nbits, dim, works):
    said = refusal(nbits, dim)

    assert f"jobs.index.nbits is {nbits} and the checkpoint ck has dim {dim}" in said
    assert f"set nbits to {works}, or" in said


def test_a_dim_that_goes_with_no_nbits_is_said_so():
    assert "no nbits goes with it, use another checkpoint." in refusal(1, 100)


@pytest.mark.parametrize(("nbits", "dim"), [(1, 8), (2, 96), (4, 96), (8, 128), (2, 16)])
def test_bits_that_can_be_packed_are_accepted(nbits, dim):
    job_runs(IndexJob(nbits=nbits), checkpoint(dim), load_embedded(10))


def test_a_collection_is_refused_only_where_no_number_of_tokens_could_do():
    """One passage of one long word may be a hundred tokens; three of two words each are not."""
    with pytest.raises(UsageError, match=r"The collection mine is too small: of 3 passages come at most \d+ embedding"):
        job_runs(IndexJob(), checkpoint(96), passages("a cat", "a dog", "an owl"))
    with pytest.raises(UsageError, match="of 1 passage come at most 8 embeddings"):
        job_runs(IndexJob(doc_maxlen=8), checkpoint(96), passages("x" * 1000))

    job_runs(IndexJob(), checkpoint(96), passages("x" * 1000))
    job_runs(IndexJob(), checkpoint(96), passages("\ud55c" * 40))  # a syllable is three letters to a tokenizer


@pytest.mark.parametrize(
    ("number", "ranks", "chunks"),
    [(4, 4, 2), (9, 4, 3), (3, 3, 2), (12, 4, 3), (13, 4, 4), (4, 2, 2), (60_000, 2, 3), (1, 1, 1), (25_001, 1, 2)],
)
def test_chunks_are_those_that_colbert_ai_cuts(number, ranks, chunks):
    size = min(25_000, 1 + number // ranks)  # `Collection.get_chunksize`

    assert chunks_of(number, ranks) == chunks == len(range(0, number, size))


def test_a_collection_without_a_chunk_for_each_rank_is_refused():
    few = passages(*["a long passage of many words " * 20] * 9)

    job_runs(IndexJob(nranks=2), checkpoint(96), few)
    with pytest.raises(UsageError, match=r"mine is too small for 4 ranks: .* its 9 passages into 3 chunks"):
        job_runs(IndexJob(nranks=4), checkpoint(96), few)


def test_more_embeddings_than_a_collection_of_134_can_be_clustered_but_for_a_few_numbers():
    cannot = [n for n in range(1, 5000) if not can_be_clustered(n)]

    assert cannot == [*range(1, 134), *range(256, 269)]
    assert [partitions(n) for n in (64, 255, 256, 1023, 1024)] == [128, 128, 256, 256, 512]


@pytest.mark.parametrize(("number", "chunks"), [(1, 1), (24_999, 1), (25_000, 1), (25_001, 2), (69_199, 3)])
def test_chunks_are_those_of_colbert(number, chunks):
    assert chunks_of(number) == chunks


def test_the_libraries_still_say_what_a_mend_is_known_for(torch_interpreter):
    program = (
        "import faiss, numpy, torch\n"
        "def said(call):\n"
        "    try: call()\n"
        "    except Exception as error: print(' '.join(str(error).split()))\n"
        "said(lambda: faiss.Kmeans(4, 128, niter=1).train(numpy.zeros((76, 4), dtype='float32')))\n"
        "said(lambda: torch.zeros(2**24 + 1).quantile(torch.tensor([0.5])))\n"
        "said(lambda: print('in phase encode: ', end='') or torch.zeros(1, 512).expand(3, 600))\n"
    )
    done = subprocess.run([str(torch_interpreter), "-c", program], capture_output=True, text=True, check=False)
    if "No module named 'faiss'" in done.stderr:
        pytest.skip("this torch has no faiss beside it")
    lines = done.stdout.splitlines()

    assert len(lines) == len(MENDS) == 3, done.stderr
    assert [[bool(re.search(pattern, line)) for pattern in MENDS] for line in lines] == [
        [place == number for place in range(3)] for number in range(3)
    ]
    assert with_mend(lines[0]).endswith(
        "The passages gave k-means 76 embeddings, fewer than the 128 clusters that colbert-ai asks for: use more "
        "passages, or a larger --limit."
    )
    assert "at most 512" in with_mend(lines[2])


def test_a_mend_may_be_for_the_log_and_other_words_stay_as_they_are():
    log = "RuntimeError: quantile() input tensor is too large\n"

    assert with_mend("It ended.", log).startswith("It ended. torch takes quantiles of at most")
    assert with_mend("It ended.", "something else") == "It ended."


@pytest.mark.parametrize("place", ["file/x", "/proc/x", "/dev/null/x"])
def test_a_folder_that_cannot_be_made_is_known_before(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--output: .*; name a folder that can be written"):
        writable_folder(tmp_path / place, "--output")


def test_a_try_leaves_nothing_behind(tmp_path):
    writable_folder(tmp_path / "a" / "b", "--output")
    writable_folder(tmp_path, "--output")
    writable_file(tmp_path / "new.md", "--summary")
    (tmp_path / "there.md").write_text("kept")
    writable_file(tmp_path / "there.md", "--summary")

    assert [path.name for path in tmp_path.iterdir()] == ["there.md"]
    assert (tmp_path / "there.md").read_text() == "kept"


@pytest.mark.parametrize("name", ["folder", "none/x.md", "/proc/x"])
def test_a_file_that_cannot_be_written_is_known_before(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="--summary: "):
        writable_file(tmp_path / name, "--summary")
    assert os.listdir(tmp_path) == ["folder"]  # noqa: PTH208
