"""Probes: small experiments beside the pipeline, stored as cells and compared between versions like artifacts.

One probe of one version is one cell, so that a probe that is new or was changed runs without the others; those that
are to run run in one worker job. What the probes do is in `harness/worker/probes`, one module each.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import harness
from harness.cells import CellSpec, job_environment
from harness.compare import ArtifactComparison, compare_sources
from harness.device import cpu_device
from harness.environments import BuildFailed
from harness.errors import UsageError
from harness.experiment import Experiment
from harness.jobs import JobResult
from harness.metrics import BUILTIN, Metrics, Profile, measure
from harness.pair import interpreters, workbench
from harness.progress import Board
from harness.replay import amount
from harness.sources import Facts
from harness.store import Artifact, Cell, Store
from harness.tensors import Tensor, UnreadableTensor, read_safetensors

JOB = "probe"
WHOLE_BYTES = 64 * 1024
"""Tensors of at most this size are kept whole."""
SAMPLE_BYTES = 16 * 1024
"""Of larger ones so much is kept: elements at even distances, the first and the last included."""

_FOLDER = Path(harness.__file__).parent / "worker" / "probes"
_SHARED = ("__init__", "bench")
_SAMPLE = ".sample"


@cache
def known_probes() -> dict[str, str]:
    """Name of each probe to the first line of its module's docstring."""
    found = {}
    for path in sorted(_FOLDER.glob("*.py")):
        if path.stem not in _SHARED:
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.partition("\n")[0]
    return found


def check_probes(names: Iterable[str]) -> list[str]:
    """The probes that are meant: all of them where none is named.

    Raises:
        UsageError: there is no such probe.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in known_probes():
            raise UsageError(f"--probe {name!r} is not a probe: choose from {', '.join(known_probes())}.")
    return wanted or list(known_probes())


@cache
def probe_digest(name: str) -> str:
    """Digest of a probe's code, which makes its inputs too: it is part of the cell's key."""
    digest = blake3()
    for stem in (*_SHARED, name):
        digest.update(f"{stem}\0".encode() + (_FOLDER / f"{stem}.py").read_bytes() + b"\0")
    return digest.hexdigest(length=16)


def probe_spec(experiment: Experiment, version: str, name: str, repeat: int = 0) -> CellSpec:
    """The cell of one probe in one version."""
    files = experiment.checkpoint
    return CellSpec(
        job=JOB,
        version=version,
        lock=experiment.lock(version).digest,
        collection={"name": f"probe {name}", "digest": probe_digest(name), "passages": 0},
        checkpoint={"name": files.name, "digest": files.digest, "dim": files.dim},
        # Most probes run on the CPU too when the job has a GPU, so the processor decides bits even then.
        settings={"probe": name, "threads": experiment.job.threads, "dim": files.dim, "cpu": cpu_device().identity},
        device=experiment.device.identity,
        environment=job_environment(experiment.matrix, experiment.job, version, experiment.device),
        repeat=repeat,
    )


# ---- Running


def run_probes(
    experiment: Experiment,
    versions: Sequence[str],
    names: Sequence[str],
    board: Board,
    *,
    repeats: Mapping[str, int] | None = None,
    again: bool = False,
) -> list[Cell]:
    """Run the probes that are not stored yet, one job for each version and repeat; return all cells.

    Args:
        experiment: checkpoint, device and settings.
        versions: in the order in which they run.
        names: of probes.
        board: shows progress.
        repeats: version to the number of extra runs (A against A).
        again: run stored ones too.
    """
    cells: list[Cell] = []
    interpreter_of = interpreters(experiment, board.note)
    for version in versions:
        for repeat in range((repeats or {}).get(version, 0) + 1):
            specs = {name: probe_spec(experiment, version, name, repeat) for name in names}
            stored = {name: experiment.store.get(spec.key) for name, spec in specs.items()}
            pending = {
                name: specs[name]
                for name, cell in stored.items()
                if again or cell is None or cell.outcome not in {"ok", "unsupported"}
            }
            label = f"{version}#{repeat}" if repeat else version
            board.phase(label, f"{len(pending)} of {len(names)} probes" if pending else "stored")
            made = _run_version(experiment, pending, interpreter_of(version))
            cells += [cell for name in names if (cell := made.get(name) or stored[name]) is not None]
    return cells


def _run_version(
    experiment: Experiment, pending: dict[str, CellSpec], interpreter: Callable[[], Any]
) -> dict[str, Cell]:
    """Run jobs until every pending probe has a cell: a probe that kills its job must not take the others along."""
    made: dict[str, Cell] = {}
    if not pending:
        return made
    try:
        found = interpreter()
    except BuildFailed as error:
        details = {"cause": error.cause, "log_tail": "\n".join(error.log.splitlines()[-40:])}
        for name, spec in pending.items():
            made[name] = experiment.store.put(_cell(spec, error.outcome, str(error), details))
        return made
    bench = workbench(experiment)
    settings = {**experiment.job.model_dump(), "dim": experiment.checkpoint.dim}
    while waiting := [name for name in pending if name not in made]:
        with bench.scratch(JOB) as out:
            request = {"probes": waiting, "settings": settings}
            result = bench.run(pending[waiting[0]], found, JOB, request, out)
            for name in waiting:
                if (out / name / "done.json").exists():
                    made[name] = _take(experiment.store, pending[name], out / name, result)
            ended_in = _phase(out).removeprefix(f"{JOB} ")
            guilty = [ended_in] if ended_in in waiting and ended_in not in made else waiting
            for name in guilty:
                if name not in made:
                    outcome = "invalid_output" if result.ok else result.outcome
                    reason = result.reason or "The job ended well but left nothing of this probe."
                    made[name] = experiment.store.put(_cell(pending[name], outcome, reason, _details(result, {})))
    return made


def _phase(out: Path) -> str:
    try:
        return (out / "phase").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cell(spec: CellSpec, outcome: str, reason: str, details: dict[str, Any]) -> Cell:
    return Cell(spec.key, spec.group, spec.to_json(), outcome, reason, capture="full", details=details)


def _details(result: JobResult, done: dict[str, Any]) -> dict[str, Any]:
    return {
        "harness": harness.__version__,
        "log_tail": result.log_tail,
        "provenance": result.result.get("provenance", {}),
        **done,
    }


def _take(store: Store, spec: CellSpec, folder: Path, result: JobResult) -> Cell:
    """Take what one probe left into the store."""
    try:
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        artifacts: dict[str, Artifact] = {}
        tensors = []
        for record in done["tensors"]:
            name = Path(record["file"]).stem
            artifacts |= _kept(store, name, read_safetensors(folder / record["file"])["tensor"])
            if record["role"] == "result":
                tensors.append({"case": record["case"], "tensor": record["tensor"], "artifact": name})
        facts = [{**fact, "pair": [Path(file).stem for file in fact["pair"] or ()]} for fact in done["facts"]]
        outcome, reason = str(done["outcome"]), str(done["reason"])
    except (OSError, ValueError, KeyError, TypeError, UnreadableTensor) as error:
        return store.put(_cell(spec, "invalid_output", f"What the probe left cannot be read: {error}.", {}))
    details = _details(result, {"facts": facts, "tensors": tensors, "refused": done["refused"]})
    cell = _cell(spec, outcome, reason, details)
    return store.put(replace(cell, artifacts=artifacts, seconds={"total": done["seconds"]}))


def sample(tensor: Tensor) -> Tensor:
    """Elements of a large tensor at even distances, as many as are kept."""
    count = min(tensor.n, SAMPLE_BYTES // tensor.flat.itemsize)
    places = np.linspace(0, tensor.n - 1, count).astype(np.int64)
    return Tensor.of(tensor.flat[places], tensor.dtype)


def _kept(store: Store, name: str, tensor: Tensor) -> dict[str, Artifact]:
    """A digest of the whole always; the tensor if it is small, else a sample of it under a name of its own."""
    whole = tensor.nbytes <= WHOLE_BYTES
    found = {name: Artifact(tensor.digest(), tensor.dtype, tensor.shape, "intermediate", whole)}
    kept = tensor if whole else sample(tensor)
    if not whole:
        name = f"{name}{_SAMPLE}"
        found[name] = Artifact(kept.digest(), kept.dtype, kept.shape, "intermediate", stored=True)
    store.put_object(kept, found[name].digest)
    return found


# ---- Comparing


class ProbeCell:
    """A probe's cell as a source of artifacts for the comparer: they are named by case and tensor.

    Artifacts are numbered in the order in which the probe made them, which says nothing where a version refuses a case.
    """

    def __init__(self, store: Store, cell: Cell) -> None:
        self.store, self.cell = store, cell
        self._artifacts: dict[str, str] = {}
        self.places: dict[str, tuple[str, str]] = {}
        for one in cell.details.get("tensors", ()):
            label = f"{one['case']}: {one['tensor']}"
            self.places[label] = one["case"], one["tensor"]
            self._artifacts[label] = one["artifact"]
            if f"{one['artifact']}{_SAMPLE}" in cell.artifacts:
                self._artifacts[f"{label}{_SAMPLE}"] = f"{one['artifact']}{_SAMPLE}"

    @property
    def name(self) -> str:
        """The cell's label."""
        return self.cell.label

    def names(self) -> tuple[str, ...]:
        """Case and tensor of each, samples of large ones too."""
        return tuple(self._artifacts)

    def artifact(self, name: str) -> Artifact | None:
        """What the cell knows of one of them."""
        return self.cell.artifacts.get(self._artifacts.get(name, ""))

    def facts(self, name: str) -> Facts | None:
        """Digest, dtype and shape, from the record."""
        found = self.artifact(name)
        return Facts(found.digest, found.dtype, found.shape) if found else None

    def digest(self, name: str) -> str | None:
        """From the record."""
        found = self.artifact(name)
        return found.digest if found else None

    def load(self, name: str) -> Tensor:
        """Map a tensor; see `Store.load`."""
        found = self.artifact(name)
        if found is None:
            raise UnreadableTensor(f"the cell has no tensor {name!r}")
        return self.store.load(found)

    def metadata(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Row:
    """One row of `probes.parquet`: a tensor in two versions, or a fact of one (`a` and `b` are the same then).

    Attributes:
        probe: its name.
        case: such as `mixed batch 08`; empty where the probe as a whole is missing.
        tensor: which of the case's tensors; for a fact, its name.
        a: label of the older version.
        b: label of the newer one.
        key_a: key of A's cell; empty where there is none.
        key_b: of B's.
        status: as for artifacts.
        dtype: of the tensor; both, where they differ.
        shape: of the whole tensor.
        measured: `whole`, `sample` (only elements at even distances were kept) or empty (digests only).
        noise: whether a repeat of A or of B changes it too; None where nothing was repeated.
        fact: what ought to hold within a version, such as `batch_invariant`.
        holds: whether it does.
        note: where it does not, or why something is missing.
    """

    probe: str
    case: str
    tensor: str
    a: str
    b: str
    key_a: str
    key_b: str
    status: str
    dtype: str | None = None
    shape: str | None = None
    measured: str = ""
    n: int | None = None
    n_mismatch: int | None = None
    max_abs: float | None = None
    max_ulp: int | None = None
    bit_equal: bool = False
    default: bool | None = None
    bnb: bool | None = None
    noise: bool | None = None
    fact: str | None = None
    holds: bool | None = None
    note: str = ""
    digest_a: str | None = None
    digest_b: str | None = None
    metrics: Metrics | None = None

    @property
    def changed(self) -> bool:
        """Whether the two versions differ in it, beyond what a repeat shows."""
        return self.fact is None and self.status not in {"bit_equal", "unreadable"} and not self.noise

    def to_row(self) -> dict[str, Any]:
        """As a row of the table."""
        return {name: value for name, value in asdict(replace(self, metrics=None)).items() if name != "metrics"}


def latest(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Probe to its comparable cells; of several groups (the probe's code was changed since) the one last added to."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.spec.get("job") == JOB:
            groups.setdefault((cell.spec["settings"]["probe"], cell.group), []).append(cell)
    best: dict[str, list[Cell]] = {}
    for (name, _group), members in groups.items():
        if name not in best or max(c.finished for c in members) > max(c.finished for c in best[name]):
            best[name] = members
    return {name: best[name] for name in sorted(best)}


def _set_of(cell: Cell) -> str:
    """Digest of what a probe's cell shares with those of other probes and versions that ran beside it."""
    spec = cell.spec
    settings = {name: value for name, value in spec["settings"].items() if name != "probe"}
    shared = [spec["checkpoint"]["digest"], spec["device"], settings]
    return blake3(json.dumps(shared, sort_keys=True).encode()).hexdigest(length=16)


def choose_probes(
    cells: Iterable[Cell],
    names: Iterable[str],
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    key: str | None = None,
) -> dict[str, list[Cell]]:
    """Probe to its comparable cells.

    Args:
        cells: of a store.
        names: of probes.
        checkpoint: only cells of this one, by its name or folder.
        device: only cells of this kind, `cpu` or `cuda`; `auto` takes any.
        threads: only cells with so many.
        key: only the set whose digest starts so.

    Raises:
        UsageError: there is none, or there are several sets that cannot be compared with each other.
    """
    wanted = set(names)
    sets: dict[str, list[Cell]] = {}
    for cell in cells:
        spec = cell.spec
        if (
            spec.get("job") == JOB
            and spec["settings"].get("probe") in wanted
            and (checkpoint is None or Path(spec["checkpoint"]["name"]).name == Path(checkpoint).name)
            and (device == "auto" or spec["device"].split(" ", 1)[0] == device)
            and (threads is None or spec["settings"].get("threads") == threads)
        ):
            sets.setdefault(_set_of(cell), []).append(cell)
    chosen = {digest: members for digest, members in sets.items() if digest.startswith(key or "")}
    if not chosen:
        raise UsageError("The store holds no such probes yet: run `nox -s probe-VERSION` or `harness probe VERSION`.")
    if len(chosen) > 1:
        listing = "; ".join(f"{digest[:12]}: {_describe(members[0])}" for digest, members in chosen.items())
        raise UsageError(
            f"The store holds {len(chosen)} sets of probes that cannot be compared with each other; name one with "
            f"--key, or with --checkpoint, --device and --threads: {listing}."
        )
    return latest(next(iter(chosen.values())))


def _describe(cell: Cell) -> str:
    spec = cell.spec
    return f"{spec['checkpoint']['name']}, {spec['device']}, {spec['settings'].get('threads')} threads"


def compare_probes(
    store: Store, cells: Mapping[str, list[Cell]], versions: Sequence[str], profiles: Sequence[Profile] = BUILTIN
) -> list[Row]:
    """Facts of each version, then every consecutive pair of `versions`, probe by probe.

    Args:
        store: where the tensors are.
        cells: probe to cells of one group, from `latest`.
        versions: in order; one without a cell gives rows of what is missing.
        profiles: `default` and `bnb` fill the columns of that name.
    """
    rows: list[Row] = []
    for probe, members in cells.items():
        first = {cell.version: cell for cell in members if not cell.repeat}
        noise = {version: _noise(store, cell, members) for version, cell in first.items()}
        for version in versions:
            if version in first:
                rows += _facts(store, probe, first[version], profiles)
        for a, b in itertools.pairwise(versions):
            known = [noise.get(version) for version in (a, b)]
            noisy = None if all(one is None for one in known) else frozenset().union(*(one or () for one in known))
            rows += _pair(store, probe, (a, b), (first.get(a), first.get(b)), noisy, profiles)
    return rows


def _noise(store: Store, cell: Cell, members: Iterable[Cell]) -> frozenset[str] | None:
    """Artifacts that a repeat of this cell changes; None where there is none."""
    others = [one for one in members if one.version == cell.version and one.repeat and one.outcome == "ok"]
    if not others:
        return None
    sources = [ProbeCell(store, one) for one in (cell, *others)]
    digests = [{name: source.digest(name) for name in source.names()} for source in sources]
    return frozenset(
        name for name in set().union(*digests) if any(other.get(name) != digests[0].get(name) for other in digests)
    )


def _facts(store: Store, probe: str, cell: Cell, profiles: Sequence[Profile]) -> Iterator[Row]:
    base: dict[str, Any] = {"probe": probe, "a": cell.version, "b": cell.version, "key_a": cell.key, "key_b": cell.key}
    if cell.outcome != "ok":
        yield Row(**base, case="", tensor="", status="unreadable", fact="ran", holds=False,
                  note=f"{cell.outcome}: {cell.reason}")  # fmt: skip
        return
    for refused in cell.details.get("refused", ()):
        yield Row(**base, case=refused["case"], tensor="", status="unreadable", fact="ran", holds=False,
                  note=refused["reason"])  # fmt: skip
    for fact in cell.details.get("facts", ()):
        row = Row(
            **base, case=fact["case"], tensor=fact["fact"], status="bit_equal", bit_equal=True, fact=fact["fact"],
            holds=fact["holds"], note=fact["note"],
        )  # fmt: skip
        if not fact["holds"]:
            row = replace(row, status="different", bit_equal=False)
        if len(fact["pair"]) == 2:
            row = _measured_fact(row, store, cell, fact["pair"], profiles)
        yield row


def _measured_fact(row: Row, store: Store, cell: Cell, pair: list[str], profiles: Sequence[Profile]) -> Row:
    artifacts = [cell.artifacts[name] for name in pair]
    row = replace(row, dtype=artifacts[0].dtype, shape=_shape(artifacts[0].shape), digest_a=artifacts[0].digest,
                  digest_b=artifacts[1].digest)  # fmt: skip
    sampled = not artifacts[0].stored
    try:
        left, right = (store.load(cell.artifacts[f"{name}{_SAMPLE}" if sampled else name]) for name in pair)
        if (left.shape, left.dtype) != (right.shape, right.dtype):
            return row
        metrics = measure(left, right, profiles)
    except (UnreadableTensor, KeyError):
        return row
    return _with_metrics(row, metrics, "sample" if sampled else "whole")


def _with_metrics(row: Row, metrics: Metrics, measured: str) -> Row:
    verdicts = {verdict.profile: verdict.close for verdict in metrics.verdicts}
    return replace(
        row, measured=measured, n=metrics.n, n_mismatch=metrics.n_mismatch, max_abs=metrics.max_abs,
        max_ulp=metrics.max_ulp, default=verdicts.get("default"), bnb=verdicts.get("bnb"), metrics=metrics,
    )  # fmt: skip


def _shape(shape: Sequence[int] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape))


def _pair(
    store: Store, probe: str, versions: tuple[str, str], pair: tuple[Cell | None, Cell | None],
    noise: frozenset[str] | None, profiles: Sequence[Profile],
) -> Iterator[Row]:  # fmt: skip
    a, b = pair
    base: dict[str, Any] = {
        "probe": probe, "a": versions[0], "b": versions[1], "key_a": a.key if a else "", "key_b": b.key if b else "",
    }  # fmt: skip
    lost = [cell is None or cell.outcome != "ok" for cell in pair]
    if any(lost):
        notes = [
            f"{version} {f'ended as {cell.outcome}: {cell.reason}' if cell else 'was not probed'}"
            for version, cell, gone in zip(versions, pair, lost, strict=True)
            if gone
        ]
        # Neither side has anything that could differ when both ended badly: it is a gap, and not a change.
        status = "unreadable" if all(lost) else "missing_a" if lost[0] else "missing_b"
        yield Row(**base, case="", tensor="", status=status, note="; ".join(notes))
        return
    assert a is not None
    assert b is not None
    left, right = ProbeCell(store, a), ProbeCell(store, b)
    compared = {one.name: one for one in compare_sources(left, right, profiles).artifacts}
    refused = {r["case"]: r["reason"] for cell in (a, b) for r in cell.details.get("refused", ())}
    for name, (case, tensor) in {**left.places, **right.places}.items():
        row = _row(compared[name], compared.get(f"{name}{_SAMPLE}"), {**base, "case": case, "tensor": tensor})
        yield replace(
            row,
            noise=None if noise is None else name in noise,
            digest_a=left.digest(name),
            digest_b=right.digest(name),
            note=refused.get(case, "") if row.status.startswith("missing") else row.note,
        )


def _row(found: ArtifactComparison, sampled: ArtifactComparison | None, base: dict[str, Any]) -> Row:
    dtypes = list(dict.fromkeys(filter(None, (found.dtype_a, found.dtype_b))))
    shapes = list(dict.fromkeys(filter(None, (_shape(found.shape_a), _shape(found.shape_b)))))
    row = Row(**base, status=found.status, dtype=" against ".join(dtypes), shape=" against ".join(shapes),
              bit_equal=found.bit_equal)  # fmt: skip
    if found.metrics is not None:
        return _with_metrics(row, found.metrics, "whole")
    if found.status != "different":
        return row
    if found.shape_a != found.shape_b or found.dtype_a != found.dtype_b:
        # Known from the records alone, since neither tensor was kept whole.
        return replace(row, status="shape_mismatch" if found.shape_a != found.shape_b else "dtype_mismatch")
    if sampled is None or sampled.metrics is None:
        return replace(row, note=found.reason)
    row = _with_metrics(row, sampled.metrics, "sample")
    if sampled.metrics.bit_equal:
        # It differs somewhere else: no verdict follows from what was kept.
        return replace(row, default=None, bnb=None, note="differs outside the sample that was kept")
    return replace(row, status=sampled.status, note="of a sample")


# ---- Saying it


_SHOWN = 6
_NUMBER = re.compile(r"\.\d+(?=\.|$)")


def summaries(rows: Sequence[Row]) -> list[str]:
    """One short line for each probe that changed between two versions, and one for those that are equal."""
    lines = []
    for a, b in dict.fromkeys((row.a, row.b) for row in rows if row.fact is None):
        arrow, equal, gaps = f"{a} -> {b}", [], []
        of_pair = [row for row in rows if row.fact is None and (row.a, row.b) == (a, b)]
        for probe in dict.fromkeys(row.probe for row in of_pair):
            mine = [row for row in of_pair if row.probe == probe]
            changed = [row for row in mine if row.changed]
            if changed:
                lines.append(f"{arrow}  {probe}: {_changes(changed, len(mine))}")
                lines += [f"{arrow}  {probe}: {note}" for note in _removed(mine)]
            elif mine[0].status == "unreadable":
                gaps.append(f"{arrow}  {probe}: not compared: {mine[0].note}")
            else:
                noisy = sum(not row.bit_equal for row in mine)
                equal.append(f"{probe} ({noisy} noisy)" if noisy else probe)
            lines += [f"{arrow}  {probe}: {note}" for note in _turned(rows, probe, a, b)]
        lines += gaps
        if equal:
            lines.append(f"{arrow}  equal: {', '.join(equal)}")
    return lines


def _turned(rows: Iterable[Row], probe: str, a: str, b: str) -> list[str]:
    """Facts that hold in one of two versions only, or fail in other places."""
    notes: dict[str, dict[tuple[str, str], str]] = {a: {}, b: {}}
    for row in rows:
        if row.probe == probe and row.fact is not None and row.a in notes and row.fact != "ran":
            notes[row.a][row.case, row.fact] = "yes" if row.holds else f"no{f' ({row.note})' if row.note else ''}"
    turned = [place for place in notes[a] if place in notes[b] and notes[a][place] != notes[b][place]]
    found = [f"{place[1].replace('_', ' ')} in {place[0]}: {notes[a][place]} -> {notes[b][place]}" for place in turned]
    return [*found[:_SHOWN], *([f"and {len(found) - _SHOWN} more such changes"] if len(found) > _SHOWN else [])]


def _changes(changed: list[Row], total: int) -> str:
    if not changed[0].tensor:
        return changed[0].note
    counted = [row for row in changed if row.max_ulp is not None]
    worst = max(counted, key=lambda row: (row.max_ulp or 0, row.n_mismatch or 0)) if counted else changed[0]
    where = f"{worst.case}, {worst.tensor}"
    which = "greatest in" if len(changed) > 1 else "in"
    if worst.metrics is None or worst.metrics.bit_equal:
        how = f": {worst.status.replace('_', ' ')}{f' ({worst.note})' if worst.note else ''}"
    else:
        how = amount(worst.metrics) + (" of a sample" if worst.measured == "sample" else "")
    return f"{len(changed)} of {total} tensors differ, {which} {where}{how}"


def _removed(rows: list[Row]) -> list[str]:
    """What the probe `identity` shows: without which Linears a precision's difference is gone."""
    notes = []
    for baseline in (row for row in rows if row.case.endswith(" without nothing") and row.changed):
        precision = baseline.case.removesuffix("nothing")
        others = [row for row in rows if row.case.startswith(precision) and row is not baseline]
        gone = [row.case.removeprefix(precision) for row in others if row.bit_equal]
        which = f"gone without {', '.join(gone)}" if gone else "stays whichever Linear is replaced by Identity"
        notes.append(f"the difference in {precision.split()[0]} precision {which}")
    return notes


def version_lines(cells: Iterable[Cell]) -> list[str]:
    """One line for each version and repeat: how many probes ended well, in how many seconds."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.version, cell.repeat), []).append(cell)
    lines = []
    for (version, repeat), members in groups.items():
        well = sum(cell.outcome == "ok" for cell in members)
        tensors = sum(len(cell.details.get("tensors", ())) for cell in members)
        seconds = sum(cell.seconds.get("total", 0.0) for cell in members)
        label = f"{version}#{repeat}" if repeat else version
        lines.append(f"{label}  {well} of {len(members)} probes are stored: {tensors} tensors, {seconds:.0f} s")
    return lines


def fact_lines(rows: Iterable[Row]) -> list[str]:
    """One short line for each probe and fact that does not hold everywhere, for all versions of which it says the same.

    Layers of which the same is said are one place, their numbers a star.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.fact is not None:
            groups.setdefault((row.probe, row.fact, row.a), []).append(row)
    said: dict[str, list[str]] = {}
    for (probe, fact, version), members in groups.items():
        failing = [row for row in members if not row.holds]
        if not failing:
            continue
        places: dict[str, dict[str, None]] = {}
        for row in failing:
            places.setdefault(row.note, {})[_NUMBER.sub(".*", row.case) or "the whole probe"] = None
        shown = "; ".join(_place(list(cases), note) for note, cases in places.items())
        what = (
            "did not run"
            if fact == "ran"
            else f"{fact.replace('_', ' ')}: not in {len(failing)} of {len(members)} cases"
        )
        said.setdefault(f"{probe}: {what}: {shown}", []).append(version)
    return [f"{', '.join(versions)}  {text}" for text, versions in said.items()]


def _place(cases: list[str], note: str) -> str:
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    return f"{cases[0]}{more}{f' ({note})' if note else ''}"
