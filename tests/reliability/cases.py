"""Wrong answers that were found from outside, most of them in public bug reports, and what the harness says now.

Each case is made from nothing, without torch, and asked of the command line itself. A number is the case's in the list
that they came from.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from harness.artifacts.directory import IndexDirectory
from harness.cli import main as harness
from harness.environments.build import find_environment
from harness.home import Home
from tests.reliability.bench import VERSIONS, Bench, Row, Skipped, expect, judged
from tests.reliability.registry import Index, with_index
from tests.support.cell_specs import MATRIX, ROOT, planned
from tests.support.checkpoints import checkpoint_bytes, safetensors, write_checkpoint
from tests.support.front_door import Door
from tests.support.pt_files import rebuild, text, tuple_of, write_archive, write_index, write_ivf, write_pt
from tests.support.standin import harness_program
from tests.support.stored import Place

FEW = "".join(json.dumps(words) + "\n" for words in ("a cat", "a dog", "an owl"))
OLD, NEW = MATRIX.quickstart.versions[:2]


@dataclass(frozen=True)
class Answer:
    """How a command ended, and all that it said."""

    code: int
    said: str

    def sentence(self, after: str = "") -> str:
        """Its first sentence, or the first with these words; tables have none."""
        lines = [line for line in self.said.splitlines() if line.rstrip().endswith(".") and after in line]
        return re.split(r"(?<=\.) (?=[A-Z0-9`])", lines[0].removeprefix("harness: "), maxsplit=1)[0] if lines else ""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: what somebody has or does, in a few words.
        asked: the command, short.
        truth: what is so, whatever anybody says.
        ask: makes it in an empty folder and asks; raises what a fault does where something else is not as it should be.
        code: the exit code that says the truth.
        says: a pattern for each thing that must be said.
        never: a pattern of what would be false.
        shown: words of the sentence that answers, where a summary comes before it.
        built: whether it needs an environment with torch.
    """

    name: str
    asked: str
    truth: str
    ask: Callable[[Path], Answer]
    code: int
    says: Sequence[str]
    never: str = "(?!)"
    shown: str = ""
    built: bool = False


def try_case(case: Case, folder: Path) -> Row:
    """Ask, and hold the answer against the truth."""

    def look() -> str:
        folder.mkdir(parents=True)
        answer = case.ask(folder)
        said = " ".join(answer.said.split())
        expect(answer.code == case.code, f"exit code {answer.code}: {said[-500:]}")
        for pattern in case.says:
            expect(re.search(pattern, said), f"{pattern!r} is not said: {said[:700]}")
        expect(not re.search(case.never, said), f"{case.never!r} is said: {said[:700]}")
        return f"exit code {answer.code}; “{answer.sentence(case.shown)}”"

    return judged((case.name, case.asked, case.truth), look)


def ask(folder: Path, *arguments: object) -> Answer:
    """The answer of `harness ARGUMENTS` in a folder."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            harness([str(one) for one in arguments])
        except SystemExit as ended:
            code = ended.code
    expect(isinstance(code, int), f"it ended with {code!r}")
    return Answer(int(str(code)), out.getvalue() + err.getvalue())


# ---- index folders


def of_two(change: Callable[[Path, Path], object], command: str = "compare") -> Callable[[Path], Answer]:
    """Ask about A and B, which are the same index but for a change."""

    def run(folder: Path) -> Answer:
        a, b = folder / "A", folder / "B"
        for one in (a, b):
            write_index(one)
        change(a, b)
        return ask(folder, command, "A", "B")

    return run


def two_saves(a: Path, b: Path) -> None:
    write_pt(b / "0.codes.pt", np.zeros_like(IndexDirectory(a).load("0.codes").data))
    with (b / "0.codes.pt").open("ab") as file:
        file.write((a / "0.codes.pt").read_bytes())


def before_archive(_a: Path, b: Path) -> None:
    for name, header in (("0.codes.pt", b"PKheader"), ("1.codes.pt", b"header")):
        (b / name).write_bytes(header + (b / name).read_bytes())


def flip(path: Path, member: str = "/data/0", place: int = 101) -> None:
    """Change one bit of a member of an archive, and no checksum."""
    with zipfile.ZipFile(path) as archive:
        start = next(one.header_offset for one in archive.infolist() if one.filename.endswith(member))
    raw = bytearray(path.read_bytes())
    start += 30 + sum(int.from_bytes(raw[start + n : start + n + 2], "little") for n in (26, 28))
    raw[start + place] ^= 4
    path.write_bytes(raw)


def pointer(path: Path) -> None:
    """What git leaves of a file where git-lfs is not installed."""
    path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0123456789abcdef' * 4}\nsize {path.stat().st_size}\n"
    )


def _pointers(_a: Path, b: Path) -> None:
    for path in b.glob("*.pt"):
        pointer(path)


def _broken_link(_a: Path, b: Path) -> None:
    (b / "centroids.pt").unlink()
    (b / "centroids.pt").symlink_to("../../blobs/0123")


def attributes(a: Path, b: Path) -> None:
    """As `torch.save` writes a tensor of which an attribute was set, and a Parameter."""
    for name, parameter in (("centroids", False), ("avg_residual", True)):
        one = IndexDirectory(a).load(name)
        strides = (one.shape[1], 1) if one.shape else ()
        storage = {"float16": "HalfStorage", "float32": "FloatStorage"}[one.dtype]
        plain = rebuild("0", storage, one.n, one.shape, strides)
        function, _, arguments = plain.removesuffix(b"R").partition(b"_rebuild_tensor_v2\n")
        state = b"}" + text("trained_by") + text("faiss") + b"s"
        made = b"ctorch._tensor\n_rebuild_from_type_v2\n" + tuple_of(
            function + b"_rebuild_tensor_v2\n", b"ctorch\nTensor\n", arguments, state
        )
        if parameter:
            made = b"ctorch._utils\n_rebuild_parameter\n" + tuple_of(plain, b"\x88", b"ccollections\nOrderedDict\n)R")
        write_archive(b / f"{name}.pt", b"\x80\x02" + made + b"R.", {"0": bytes(one.buffer())})


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change metadata.json."""
    record = json.loads((folder / "metadata.json").read_text())
    change(record)
    (folder / "metadata.json").write_text(json.dumps(record))


def _other_paths(a: Path, b: Path) -> None:
    for folder, home in ((a, "/home/user-a/rag"), (b, "/mnt/team/b")):
        names = {"root": home, "checkpoint": f"{home}/ckpt", "collection": f"{home}/c.tsv", "index_path": f"{home}/i"}
        wrapper = {"index_config": {"index_type": "PLAID", "index_name": f"docs-{folder.name}"}}

        def change(record: dict[str, Any], names: Any = names, wrapper: Any = wrapper) -> None:
            record["config"] |= names
            record["RAGatouille"] = wrapper

        edit(folder, change)


def reorder(a: Path, b: Path, seed: int = 5) -> None:
    """Make B of A's passages in another order."""
    source = IndexDirectory(a)
    sizes = source.load("doclens").data
    ends = np.cumsum(sizes)
    rows = [np.concatenate([source.load(f"{n}.{what}").data for n in (0, 1)]) for what in ("codes", "residuals")]
    order = np.random.default_rng(seed).permutation(sizes.size)
    lists: dict[int, set[int]] = {}
    for chunk, part in enumerate(np.split(order, 2)):
        where = np.concatenate([np.arange(ends[p] - sizes[p], ends[p]) for p in part])
        write_pt(b / f"{chunk}.codes.pt", rows[0][where])
        write_pt(b / f"{chunk}.residuals.pt", rows[1][where])
        (b / f"doclens.{chunk}.json").write_text(json.dumps(sizes[part].tolist()))
    for new, old in enumerate(order):
        for code in rows[0][ends[old] - sizes[old] : ends[old]].tolist():
            lists.setdefault(code, set()).add(new)
    write_ivf(b, lists, source.load("ivf_lengths").n)


def _told_wrong(a: Path, b: Path) -> None:
    for folder in (a, b):
        edit(folder, lambda record: record["config"].update(nbits=4))
    residuals = IndexDirectory(a).load("0.residuals").data.copy()
    residuals[0, 0] ^= 0b1100_0000
    write_pt(b / "0.residuals.pt", residuals)


LATE = ("doclens.1.json", "1.metadata.json", "ivf.pid.pt", "metadata.json")
"""What colbert-ai writes last."""


def _cut(*folders: int) -> Callable[[Path, Path], None]:
    def change(*both: Path) -> None:
        for number in folders:
            for name in LATE:
                (both[number] / name).unlink()

    return change


def _without_tensors(a: Path, b: Path) -> None:
    write_index(b, seed=9)
    for chunk in (0, 1):  # of passages of equal lengths
        (b / f"doclens.{chunk}.json").write_bytes((a / f"doclens.{chunk}.json").read_bytes())
    for path in (*a.glob("*.pt"), *b.glob("*.pt")):
        path.unlink()


def _links(folder: Path) -> Answer:
    for seed, version in enumerate((OLD, NEW)):
        write_index(folder / "store" / version / "indexes" / "i", seed=seed)
        (folder / version).symlink_to(folder / "store" / version / "indexes" / "i")
    return ask(folder, "ladder", OLD, NEW)


# ---- arguments, before anything is built


def before_building(
    command: str, *arguments: str, passages: str = FEW * 20, dim: int = 16, nbits: int = 2
) -> Callable[[Path], Answer]:
    """Ask with a collection and a checkpoint of one's own; nothing may be built or run."""

    def run(folder: Path) -> Answer:
        (folder / "c.jsonl").write_text(passages)
        files = checkpoint_bytes(dim) | {
            "model.safetensors": safetensors({"bert.x": [2, 3], "linear.weight": [dim, 8]})
        }
        write_checkpoint(folder / "ck", files)
        place = Place(folder)
        matrix = folder / "matrix.yaml"
        matrix.write_text(matrix.read_text(encoding="utf-8").replace("nbits: 2", f"nbits: {nbits}"), encoding="utf-8")
        own = ["--collection", "c.jsonl", "--checkpoint", "ck", "--device", "cpu", *place.options]
        answer = ask(folder, command, *arguments, *own)
        for made in ("envs", "runs", "store"):
            expect(not (folder / ".harness" / made).exists(), f"{made} was made")
        return answer

    return run


# ---- stores


def _lock_changed(folder: Path) -> Answer:
    """Both versions of the old lock, which differ in nothing, then both of the new one, which do."""
    place = Place(folder)
    for version in (OLD, NEW):
        place.put(planned(version))
        place.lock_again(version)
        place.put(place.planned(version), centroids=f"of {version}")
    return ask(folder, "consecutive", *place.options, "--output", "tables")


def _repeat_of_another_lock(folder: Path) -> Answer:
    """The old lock's cell and its noisy repeat; the new lock's cells, which differ in what was noise before."""
    place = Place(folder)
    for version in (OLD, NEW):
        place.put(planned(version))
        place.put(planned(version, 1), centroids=f"noise of {version}")
        place.lock_again(version)
        place.put(place.planned(version), centroids=f"of {version}")
    return ask(folder, "compare", OLD, NEW, *place.options)


def _noise(folder: Path) -> Answer:
    """Each version differs from itself where the two differ."""
    place = Place(folder)
    for version in (OLD, NEW):
        for repeat in (0, 1):
            place.put(place.planned(version, repeat), centroids=f"{version} {repeat}")
    return ask(folder, "consecutive", *place.options, "--output", "tables")


def _unknown(folder: Path) -> Answer:
    place = Place(folder)
    place.put(planned(OLD), outcome="unsupported")
    place.put(planned(NEW))
    answer = ask(folder, "consecutive", *place.options, "--output", "tables")
    step = next(one for one in pq.read_table(folder / "tables" / "consecutive.parquet").to_pylist() if one["b"] == NEW)
    found = {name: step[name] for name in ("changed", "bit_equal")}
    expect(set(found.values()) == {None}, f"the table says {found}")
    return answer


def _four_characters(folder: Path) -> Answer:
    place = Place(folder)
    made = [place.put(place.planned(version), centroids=version) for version in (OLD, NEW)]
    return ask(folder, "compare", *(cell.key[:4] for cell in made), *place.options)


def _failed_rerun(folder: Path) -> Answer:
    """`index --again` with site folders that hold no torch."""
    bench = Bench(folder / "b")
    try:
        before = bench.sweep()
        (folder / "wrong" / VERSIONS[0] / "numpy").mkdir(parents=True)
        own = [*bench.inputs, "--device", "cpu", "--matrix", bench.matrix, "--home", bench.home]
        answer = ask(
            folder, "index", VERSIONS[0], "--again", *own, "--sites", folder / "wrong", "--site-python", bench.sites[3]
        )
        key = before[VERSIONS[0]].key
        expect(bench.store.get(key) == before[VERSIONS[0]], "the good cell is gone")
        expect([one.outcome for one in bench.store.attempts(key)] == ["install_failed"], "the failed run is not kept")
    finally:
        bench.close()
    return answer


def _interrupted(folder: Path) -> Answer:
    """Ctrl-C on a terminal reaches nox and all below it; the job is in its encoding then."""
    bench = Bench(folder / "b")
    bench.inject("encode", "time.sleep(3)")
    (folder / "door").mkdir()
    body = "\n".join(harness_program()[2].splitlines()[:-1]).replace("import sys", f"sys.path.insert(0, {str(ROOT)!r})")
    door = Door(folder / "door", f"{body}\ncli.main(sys.argv[1:])")
    own = ["--device", "cpu", "--matrix", str(bench.matrix), "--home", str(bench.home)]
    try:
        nox = door.start("sweep", "--", *VERSIONS[::-1], *bench.inputs, *bench.sites, *own)
        bench.started()
        os.killpg(nox.pid, signal.SIGINT)
        said, _ = nox.communicate(timeout=300)
        bench.nothing_left()
    finally:
        bench.close()
    lines = [line for line in said.splitlines() if not line.startswith(("nox >", f"{VERSIONS[1]}:"))]
    return Answer(nox.returncode, "\n".join(lines))


# ---- environments


def _exclude_newer(folder: Path) -> Answer:
    """Uv itself, and an index on loopback that does not say when its packages came."""
    bench = Bench(folder / "b", built=True)
    with Index() as index, with_index(bench, index):
        os.environ["UV_EXCLUDE_NEWER"] = "2022-01-01T00:00:00Z"
        own = [*bench.inputs, "--device", "cpu", "--matrix", bench.matrix, "--home", bench.home]
        with bench.patched():
            return ask(folder, "index", VERSIONS[0], *own)


def built_home(folder: Path) -> tuple[Home, Path]:
    """A home of one's own with the environments that are built, and the newest one's interpreter.

    Raises:
        Skipped: there is none.
    """
    base = Path(os.environ.get("HARNESS_HOME") or ROOT / ".harness").resolve()
    home = Home(folder / "home")
    home.root.mkdir()
    for name in ("envs", "cache"):
        (home.root / name).symlink_to(base / name)
    found = find_environment(home, ROOT / "locks", NEW, "cpu")
    if found is None:
        raise Skipped(f"there is no environment of {NEW}: run `nox -s index-{NEW}`, or set HARNESS_HOME")
    return home, found.python


def _distilbert(folder: Path) -> Answer:
    home, python = built_home(folder)
    maker = ROOT / "tests" / "support" / "tiny_checkpoints.py"
    subprocess.run([python, "-W", "ignore", maker, folder, "distilbert"], env={"HF_HUB_OFFLINE": "1"}, check=True)
    own = ["--collection", "embedded", "--limit", 50, "--device", "cpu", "--home", home.root]
    return ask(ROOT, "index", NEW, "--checkpoint", folder / "distilbert", *own)


_AB = "`compare A B`"
_NEITHER = "differ beyond|origin|moves? among"
CASES = (
    Case(
        "two `torch.save` into one file (03)",
        _AB,
        "the second save is A's; `torch.load` gives the first, zeros",
        of_two(two_saves),
        2,
        ["^1 artifact could not be read: 0.codes", "save each tensor in a file of its own"],
        "are bit for bit the same",
    ),
    Case(
        "one bit flipped in transit (04)",
        _AB,
        "`B/centroids.pt` is damaged: its checksum does not hold",
        of_two(lambda _a, b: flip(b / "centroids.pt")),
        2,
        ["^1 artifact could not be read: centroids", "centroids.pt is damaged", "checksum", "copy the file again"],
        _NEITHER,
    ),
    Case(
        "the same, over a ladder (04)",
        "`ladder A B`",
        "`B/centroids.pt` is damaged: nothing is known to have changed",
        of_two(lambda _a, b: flip(b / "centroids.pt"), "ladder"),
        2,
        ["centroids.pt is damaged", "A -> B 0 -"],
    ),
    Case(
        "cloned without git-lfs (06)",
        _AB,
        "every `.pt` of B is a pointer",
        of_two(_pointers),
        2,
        ["^B holds no tensor", "is a pointer of git-lfs", "run `git lfs pull`"],
    ),
    Case(
        "the same, over a ladder (06)",
        "`ladder A B`",
        "every `.pt` of B is a pointer",
        of_two(_pointers, "ladder"),
        2,
        ["^No tensor that can be read is in B", "is a pointer of git-lfs"],
        "have the same tensors",
    ),
    Case(
        "a hub's cache whose blobs are gone",
        _AB,
        "`B/centroids.pt` is a link to nothing",
        of_two(_broken_link),
        2,
        ["centroids.pt is a .*link"],
    ),
    Case(
        "an attribute on a dense tensor, a Parameter (09)",
        _AB,
        "`torch.load(weights_only=True)` reads both, and they are equal",
        of_two(attributes),
        0,
        ["^A and B are bit for bit the same in all 10 tensors of the index"],
    ),
    Case(
        "another machine's paths and names (18)",
        _AB,
        "the same index; a wrapper repeats its name",
        of_two(_other_paths),
        0,
        ["all 10 tensors", "metadata: only names, paths and dates differ", "RAGatouille.index_config.index_name"],
        "metadata: differs",
    ),
    Case(
        "the same passages in another order (19)",
        _AB,
        "each passage has its codes and residuals still",
        of_two(reorder),
        1,
        ["^A and B hold the same 40 passages, bit for bit, [0-9]+ of them at another place", "rows do not line up"],
        "Origin|origin |real moves",
    ),
    Case(
        "`nbits` told wrong (20)",
        _AB,
        "one of 4 buckets' numbers changed; `metadata.json` says 4 bits",
        of_two(_told_wrong),
        1,
        ["says nbits = 4 in metadata.json, and its tensors say 2", r"Bucket numbers \(2 bits\): 1 of [0-9,]+ changed"],
        r"\(4 bits\)",
    ),
    Case(
        "the indexer died before its last files (23)",
        _AB,
        "B is not complete; nothing else is known to differ",
        of_two(_cut(1)),
        1,
        [
            "^B is not whole",
            "B is not complete: it has no ivf, ivf_lengths, metadata.json, doclens.1.json",
        ],
        r"lengths of the passages \(doclens\) differ|do not line up|differ beyond|[Oo]rigin|inherited",
    ),
    Case(
        "both died there (23)",
        _AB,
        "what is there is equal; neither is an index",
        of_two(_cut(0, 1)),
        2,
        ["A is not complete", "B is not complete", "no verdict on whole indexes"],
    ),
    Case(
        "its last chunk's lengths alone are lost (23)",
        "`ladder A B`",
        "B is not complete",
        of_two(lambda _a, b: (b / "doclens.1.json").unlink(), "ladder"),
        2,
        ["of those that are there", "B is not complete: it has no doclens.1.json"],
        r"\(doclens\) changed",
    ),
    Case(
        "too few passages for k-means (35)",
        "`index VERSION`",
        "faiss will refuse; nothing need be built to know it",
        before_building("index", NEW, passages=FEW),
        2,
        ["The collection c is too small: of 3 passages", "use more passages"],
    ),
    Case(
        "only the JSON files arrived (37)",
        _AB,
        "two different indexes, of which nothing is there to compare",
        of_two(_without_tensors),
        2,
        ["^A and B hold no tensors to compare"],
        "bit for bit the same",
    ),
    Case(
        "a DistilBERT checkpoint (38)",
        "`index VERSION`",
        "colbert-ai indexes it",
        _distilbert,
        0,
        ["1 of 1 cell ended well and is stored"],
        built=True,
    ),
    Case(
        "`nbits` 8 and a `dim` of 96 (39)",
        "`index VERSION`",
        "colbert-ai asserts that `dim` is a multiple of 8 * nbits, after all else",
        before_building("index", NEW, dim=96, nbits=8),
        2,
        [r"jobs.index.nbits is 8 and the checkpoint ck has dim 96", "set nbits to 1 or 2 or 4"],
    ),
    Case(
        "bytes before the archive (46)",
        _AB,
        "`torch.load` refuses both files",
        of_two(before_archive),
        2,
        ["2 artifacts could not be read", "0.codes.pt is not a file that torch.save wrote", "1.codes.pt is not"],
        "are bit for bit the same",
    ),
    Case(
        "`UV_EXCLUDE_NEWER` in the shell (48)",
        "`index VERSION`, with uv itself",
        "the lock decides what is installed, and the index has it all",
        _exclude_newer,
        0,
        ["1 of 1 cell ended well and is stored"],
    ),
    Case(
        "a lock that changed",
        "`consecutive`",
        "by today's locks the versions differ; by the old ones they did not",
        _lock_changed,
        1,
        ["changed 1 of 6 tensors of the index: centroids", "Not used: 2 cells of another lock"],
        shown=" changed ",
    ),
    Case(
        "a repeat of another lock",
        f"`compare {OLD} {NEW}`",
        "the noise of today's cells is not known",
        _repeat_of_another_lock,
        1,
        ["differ beyond 'default' in centroids", "Not used: 4 cells of another lock"],
        "does not repeat the job|no more than repeats",
    ),
    Case(
        "a repeat of the cells themselves",
        "`consecutive`",
        "a cell does not repeat itself where the versions differ: noise",
        _noise,
        0,
        ["changed 1 of 6 tensors of the index, none of them more than a repeat does: centroids"],
        shown=" changed 1 of 6 tensors of",
    ),
    Case(
        "a good cell, and a rerun that failed",
        "`index --again VERSION --sites WRONG`",
        "the cell that ended well is still stored",
        _failed_rerun,
        3,
        ["which ended well, stays; record and log of this run are in"],
        shown=" stays",
    ),
    Case(
        "a version that cannot run here",
        "`consecutive`",
        "whether the index changed there is not known: null in the table",
        _unknown,
        2,
        ["1 of 1 step could not be compared"],
        shown="could not",
    ),
    Case(
        "four characters of a key",
        "`compare KEY4 KEY4`",
        "they are unique",
        _four_characters,
        1,
        [f"^{re.escape(OLD)} and {re.escape(NEW)} differ beyond"],
    ),
    Case(
        "Ctrl-C through nox",
        "`nox -s sweep`",
        "the running cell ends and is stored, and no other starts",
        _interrupted,
        3,
        ["Stopped: 1 of 2 cells did not run"],
    ),
    Case(
        "a misspelt artifact",
        f"`swap {OLD} {NEW} local_sample_emb`",
        "there is none of that name; nothing need be run to know it",
        before_building("swap", OLD, NEW, "local_sample_emb"),
        2,
        ["^harness: 'local_sample_emb' cannot be swapped; these can: D, local_sample_embs"],
    ),
    Case(
        "one version against itself",
        f"`locate {OLD} {OLD}`",
        "there is no step to explain",
        before_building("locate", OLD, OLD),
        2,
        [f"A and B are both {re.escape(OLD)}"],
    ),
    Case(
        "links named like versions",
        f"`ladder {OLD} {NEW}`",
        "the user typed these names, not `indexes/i`",
        _links,
        1,
        [f"{re.escape(OLD)} -> {re.escape(NEW)}"],
        "i#2",
    ),
)
"""In the order of the table; each with variants of its kind in the tests of the module that it is about."""
