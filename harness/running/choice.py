"""Which stored cells are meant: those that `harness plan` names for the same options, and no others.

A store keeps the cells of every lock, setting and revision of the job that ever ran. Everything that reads it comes
here to have them chosen, so that no table mixes them, and none is of a lock that is not there any more without a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness.artifacts.kinds import KINDS
from harness.environments.chosen import Names, OfMatrix
from harness.environments.device import Device, choose_device
from harness.environments.lockfile import Lock
from harness.errors import HarnessError, UsageError, printable
from harness.home import Home, resolve_home
from harness.inputs.jobs import JobSettings, TrainJob
from harness.inputs.loaders import load_collection, load_queries, load_triples
from harness.inputs.matrix import Flavour, Matrix
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.inputs.sources import EmbeddedCollection, HubCollection, LocalCollection, ScaledCollection
from harness.running.experiment import Experiment
from harness.running.probes import JOB as PROBE
from harness.running.probes import known_probes, probe_spec
from harness.running.searching import SearchedBy
from harness.running.selection import Selection, job_of
from harness.running.specs import job_spec
from harness.running.training import checkpoint_named
from harness.store.cell import Cell, Listed
from harness.store.spec import CellSpec, digest_of
from harness.store.store import KEY_SHOWN, Store
from harness.words import count, name_key

INDEX = "index"


@dataclass(frozen=True)
class Choice:
    """Cells that are comparable with each other, at most one for each version, and their repeats.

    Attributes:
        store: where they are.
        cells: in the order of the versions, each followed by its repeats; of probes, one for each probe and version.
        listed: all that is stored.
        locks: version, or name, to its lock; that of a cell is the one that it was made with.
        note: one line that says what else is stored and was not chosen, and why; empty where there is nothing.
    """

    store: Store
    cells: tuple[Cell, ...]
    listed: Sequence[Listed]
    locks: Mapping[str, Lock] = field(default_factory=dict)
    note: str = ""

    @property
    def versions(self) -> list[str]:
        """Versions of the cells, in order of release, and then the user's own environments."""
        return sorted({cell.version for cell in self.cells}, key=name_key)


@dataclass(frozen=True)
class _Judged:
    """A cell, and how it differs from the one that would be planned in its place with `lock`: field to words."""

    cell: Listed
    lock: Lock | None
    flavour: Flavour | None
    differs: Mapping[str, str]

    @property
    def decisive(self) -> bool:
        """Whether it differs in more than the settings that a named group decides itself."""
        return any(name.partition(".")[0] not in ("settings", "environment") for name in self.differs)


class Chooser:
    """Chooses cells of a store for a selection; reads what it needs once, and runs nothing.

    Args:
        selection: the user's options; what they do not name is not asked for.
        group: start of the digest of one set of comparable cells, which stands for all options that it decides.

    Raises:
        UsageError: there is no `matrix.yaml`, or something that the options name is not there.
    """

    def __init__(self, selection: Selection, group: str | None = None) -> None:
        self.selection, self.group = selection, group
        self.path = (selection.matrix_path or find_matrix()).resolve()
        self.matrix: Matrix = load_matrix(self.path)
        self.home: Home = resolve_home(selection.home, self.path)
        self.names = Names(self.home)
        if selection.on is not None:
            self.selection = replace(selection, on=self.require(selection.on))
        self.store = Store(self.home.store)
        self._jobs: dict[str, JobSettings] = {}
        self._read: dict[tuple[str, Flavour, str], Lock | None] = {}
        self._locked: dict[tuple[str, Device], dict[Flavour, Lock]] = {}
        self._plans: dict[str, CellSpec] = {}

    @property
    def versions(self) -> list[str]:
        """Those of the matrix on the axis that is meant, in order of release."""
        return self.matrix.on_axis(self.selection.axis)

    def require(self, item: str) -> str:
        """The name of the environment that an item of a command line means; see `Names.require`."""
        return self.names.require(self.matrix, self.matrix.label(item, self.selection.axis))

    @cached_property
    def listed(self) -> list[Listed]:
        """All stored cells; of those that are chosen, the records are read in full."""
        return self.store.listed()

    # ---- what would be planned

    def _job(self, name: str) -> JobSettings:
        """The settings of a kind of job."""
        if name not in self._jobs:
            self._jobs[name] = job_of(self.matrix, replace(self.selection, job=name))
        return self._jobs[name]

    def _locks(self, version: str, device: Device) -> dict[Flavour, Lock]:
        """The locks that a version's cells on a device may be of, by flavour; the device's own comes first.

        The environments of a GPU host also run on a CPU, so the lock of the other flavour is as good as the device's.
        One of the user's own has no flavour but that of the device.
        """
        if (version, device) not in self._locked:
            self._locked[version, device] = self._find_locks(version, device)
        return self._locked[version, device]

    def _find_locks(self, version: str, device: Device) -> dict[Flavour, Lock]:
        if not self.matrix.has(version) and (own := self.names.own(version)) is not None:
            return {device.flavour: own.lock}
        of = OfMatrix(self.home, self.matrix, self.path.parent / "locks", version, device)
        flavours: tuple[Flavour, ...] = ("cpu", "gpu") if device.flavour == "cpu" else ("gpu", "cpu")
        read = {flavour: self._lock_for(of, flavour) for flavour in flavours}
        return {flavour: lock for flavour, lock in read.items() if lock}

    def _lock_for(self, of: OfMatrix, flavour: Flavour) -> Lock | None:
        """A version's lock, read once for all devices that need no other build of it."""
        place = of.version, flavour, of.build.version if of.build else ""
        if place not in self._read:
            self._read[place] = None
            with suppress(HarnessError):
                self._read[place] = of.lock_for(flavour)
        return self._read[place]

    def _planned(self, own: CellSpec, lock: Lock) -> CellSpec | None:
        """The cell that would be planned for a cell's version, collection, checkpoint and device; None: no such job.

        What they are given besides is not looked at (`_differences`), so that one stands for a cell and its repeats.
        """
        names: Iterable[str]
        if own.job in KINDS:
            names = self._job(own.job).GIVEN
        elif own.job == PROBE and own.probe in known_probes():
            names = ("probe", "cpu")
        else:
            return None
        given = {name: own.settings[name] for name in names if name in own.settings}
        digests = lock.digest, own.collection.digest, own.checkpoint.digest
        place = json.dumps([own.job, own.version, own.device, *digests, own.checkpoint.dim, given], sort_keys=True)
        if place not in self._plans:
            self._plans[place] = self._plan(own, lock, given)
        return self._plans[place]

    def _plan(self, own: CellSpec, lock: Lock, given: Mapping[str, Any]) -> CellSpec:
        device = Device(own.device_kind, own.device)
        if own.job == PROBE:
            job, cpu = self._job(INDEX), given.get("cpu")
            return probe_spec(self.matrix, job, own.version, lock, own.probe, own.checkpoint, device, cpu)
        job = self._job(own.job)
        return job_spec(self.matrix, job, own.version, lock, own.collection, own.checkpoint, device, given)

    def judge(self, cell: Listed) -> _Judged:
        """Compare a cell with the one that would be planned in its place."""
        own = cell.spec
        if own.unknown:
            return _Judged(cell, None, None, {"lock": "with a record of another form"})
        locks = self._locks(cell.version, Device(own.device_kind, own.device))
        flavour = next((flavour for flavour, lock in locks.items() if lock.digest == own.lock), None)
        if not locks:
            known = "of an environment that has no name here" if own.own else "of no version in matrix.yaml"
            return _Judged(cell, None, None, {"lock": f"{known}, or of none that is locked"})
        planned = self._planned(own, locks[flavour] if flavour else next(iter(locks.values())))
        if planned is None:
            return _Judged(cell, None, None, {"job": f"of a job {own.job} that this harness does not have"})
        lock = locks[flavour] if flavour else None
        return _Judged(cell, lock, flavour, dict(_differences(own, planned)))

    # ---- choosing

    def choose(self, job: str | None = None, *, labels: Sequence[str] = (), probes: Sequence[str] = ()) -> Choice:
        """The cells that are meant.

        Args:
            job: a kind of job, or `probe`; that of the selection when absent.
            labels: cells that are asked for; sets that hold more of them come first.
            probes: only these, if the job is `probe`.

        Raises:
            UsageError: there are none, or several sets that cannot be compared with each other and none is named.
        """
        job = job or self.selection.job
        found = [
            self.judge(cell)
            for cell in self.listed
            if cell.spec.job == job
            and not cell.spec.swap
            and (not probes or cell.spec.probe in probes)
            and (cell.spec.index is None or self.searched(cell, self.selection.on))
        ]
        if not found:
            what = "probes" if job == PROBE else "cells"
            raise UsageError(f"The store {self.store.root} holds no {what} yet: run `harness {job} VERSION` first.")
        # A named group decides its own settings, and nothing but the lock, the oddities and the job may have changed.
        usable = [one for one in found if not (one.decisive if self.group else one.differs)]
        sets: dict[tuple[str, str], list[_Judged]] = {}
        for one in usable:
            assert one.flavour is not None
            sets.setdefault((_set_of(one.cell), one.flavour), []).append(one)
        chosen = self._only(sets, found, labels)
        members = [cell for one in chosen if (cell := self.store.get(one.cell.key))]
        if not members:
            raise UsageError(
                f"No record of the {count(len(chosen), 'cell')} in {self.store.root} that are meant can be read: "
                "`harness store verify` says what is wrong with them."
            )
        flavour = chosen[0].flavour
        assert flavour is not None
        device = Device(members[0].spec.device_kind, members[0].spec.device)
        versions = dict.fromkeys([*self.versions, *(cell.version for cell in members)])
        locks = {version: lock for version in versions if (lock := self._locks(version, device).get(flavour))}
        return Choice(self.store, tuple(_with_own_repeats(members)), self.listed, locks, self._note(chosen, found))

    @cached_property
    def searched(self) -> SearchedBy:
        """Says which index a stored search is over; of a version's, the one that would be planned counts."""
        indexes = [one for one in self.listed if one.spec.job == INDEX and one.outcome == "ok" and not one.spec.swap]
        planned = [one for one in indexes if not one.repeat and not self.judge(one).differs]
        return SearchedBy(self.store, planned, self.selection.index)

    def _only(
        self, sets: dict[tuple[str, str], list[_Judged]], found: Sequence[_Judged], labels: Sequence[str]
    ) -> list[_Judged]:
        """The one set that is left when the options, and then the habits of `harness plan`, have had their say."""
        named = list(self._named())
        left = {
            place: members
            for place, members in sets.items()
            if place[0].startswith(self.group or "") and all(test(members[0].cell.spec) for test in named)
        }
        if not left:
            raise self._nothing(sets, found)
        asked = {place: len({one.cell.label for one in members} & {*labels}) for place, members in left.items()}
        tests: list[Callable[[tuple[str, str]], bool]] = [
            lambda place: asked[place] == max(asked.values()),
            lambda place: left[place][0].cell.spec.device == self._own_device.identity,
            lambda place: self._is_default(left[place][0].cell.spec),
            # The flavour that is made for the device comes first; see `judge`.
            lambda place: place[1] == ("cpu" if left[place][0].cell.spec.device_kind == "cpu" else "gpu"),
        ]
        for test in tests:
            if len(left) > 1:
                left = {place: members for place, members in left.items() if test(place)} or left
        if len(left) > 1:
            raise UsageError(
                f"The store holds {len(left)} sets of cells that cannot be compared with each other. Name one, with "
                "--collection, --checkpoint, --limit, --device, --threads and --nranks, or with one of:",
                _lines(left.values()),
            )
        return next(iter(left.values()))

    def _named(self) -> Iterator[Callable[[CellSpec], bool]]:
        """Tests of a cell's specification, one for each option that names something."""
        asked = self.selection
        if asked.collection or asked.limit or asked.scale_to:
            passages = load_collection(
                self.matrix, self.path.parent, self.home, asked.collection, limit=asked.limit, scale_to=asked.scale_to
            )
            yield lambda spec: spec.collection.digest == passages.digest
        if asked.checkpoint:
            files = checkpoint_named(self.matrix, self.path.parent, self.names, self.store, asked.checkpoint)
            yield lambda spec: spec.checkpoint.digest == files.digest
        # Of indexes, the queries are those of the searches that are shown beside them.
        if asked.job != INDEX and (asked.queries or asked.limit_queries or asked.triples):
            place = self.matrix, self.path.parent, self.home, asked.collection
            passages = load_collection(*place, limit=asked.limit, scale_to=asked.scale_to)
            queries, _ = load_queries(*place, passages, queries=asked.queries, limit=asked.limit_queries, whole=False)
            yield lambda spec: spec.queries is not None and spec.queries.digest == queries.digest
            if asked.triples and isinstance(job := self._job(asked.job), TrainJob):
                triples = load_triples(*place, passages, queries, None, job, triples=asked.triples)
                yield lambda spec: spec.triples is not None and spec.triples.digest == triples.digest
        if asked.device != "auto":
            yield lambda spec: spec.device_kind == asked.device

    @cached_property
    def _own_device(self) -> Device:
        return choose_device("auto")

    def _is_default(self, spec: CellSpec) -> bool:
        """Whether a cell is of the matrix's default collection and checkpoint, as far as is known without a network."""
        name, wanted = self.matrix.defaults.collection, spec.collection
        known = self.matrix.collections[name]
        if isinstance(known, LocalCollection):
            passages = load_collection(self.matrix, self.path.parent, self.home, name)
            same = passages.digest == wanted.digest
        elif isinstance(known, HubCollection):
            same = (known.config, known.expected_passages or wanted.passages) == (wanted.name, wanted.passages)
        else:
            assert isinstance(known, (EmbeddedCollection, ScaledCollection))
            same = known.passages == wanted.passages and wanted.name.startswith(
                "embedded" if isinstance(known, EmbeddedCollection) else "scaled-from-"
            )
        checkpoint = self.matrix.defaults.checkpoint
        return (same or spec.job == PROBE) and spec.checkpoint.name == checkpoint

    # ---- words

    def _nothing(self, sets: dict[tuple[str, str], list[_Judged]], found: Sequence[_Judged]) -> UsageError:
        unused = unused_words([one for one in found if one.differs])
        text = "The store holds no cells that `harness plan` names for these options"
        if self.group:
            text = f"--group {self.group!r} names no set of cells in the store that `harness plan` could make"
        text += f" (it holds {unused})" if unused else ""
        if sets:
            return UsageError(f"{text}. It holds these sets:", _lines(sets.values()))
        # Not of these settings, but of locks that are here: a group's digest names them all the same.
        others: dict[str, list[_Judged]] = {}
        for one in found:
            if not one.decisive:
                others.setdefault(_set_of(one.cell), []).append(one)
        if others:
            return UsageError(f"{text}. These can be named:", _lines(others.values()))
        return UsageError(f"{text}: run `harness index VERSION`, or check out the locks that they were made with.")

    def _note(self, chosen: Sequence[_Judged], found: Sequence[_Judged]) -> str:
        """What is stored of the same collection, checkpoint and device, and was not chosen."""
        keys = {one.cell.key for one in chosen}
        place = _place_of(chosen[0].cell)
        left = [one for one in found if one.cell.key not in keys and _place_of(one.cell) == place]
        unused = unused_words(left)
        return printable(f"Not used: {unused}; `harness plan` names other cells.") if unused else ""


def _lines(sets: Iterable[Sequence[_Judged]]) -> list[str]:
    """Sets as short lines to copy; those that read alike have the digests of what they are of, too."""
    members = [[one.cell for one in judged] for judged in sets]
    told = [describe(cells) for cells in members]
    lines = []
    for cells, words in zip(members, told, strict=True):
        spec = cells[0].spec
        digests = f", collection {spec.collection.digest[:8]}, checkpoint {spec.checkpoint.digest[:8]}"
        more = digests if told.count(words) > 1 else ""
        lines.append(f"--group {_set_of(cells[0])[:KEY_SHOWN]}   {words}{more}")
    return lines


def _differences(own: CellSpec, planned: CellSpec) -> Iterator[tuple[str, str]]:
    """Fields of a specification that are not as they would be planned, with words for the user."""
    if own.lock != planned.lock:
        yield "lock", "of another lock"
    if own.revision != planned.revision:
        yield "revision", "of another revision of the job"
    if own.collection.digest != planned.collection.digest:
        yield "collection", "of another revision of the probe"
    for part in ("settings", "environment"):
        mine, theirs = getattr(own, part), getattr(planned, part)
        if mine == theirs:
            continue
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                odd = part == "environment" and name in {*own.oddities, *planned.oddities}
                yield f"{'oddity' if odd else part}.{name}", f"with {name} {mine.get(name, 'unset')}"


def unused_words(left: Iterable[_Judged]) -> str:
    """Cells by the first thing in which they differ from what would be planned, in words."""
    by: dict[str, list[Listed]] = {}
    for one in left:
        words = next(iter(one.differs.values()), "of another set")
        by.setdefault(words, []).append(one.cell)
    return "; ".join(
        f"{count(len(cells), 'cell')} {words} "
        f"({', '.join(list(dict.fromkeys(cell.label for cell in cells))[:3])}{', …' if len(cells) > 3 else ''})"
        for words, cells in by.items()
    )


def _set_of(cell: Listed) -> str:
    """Digest of what a cell shares with those that it can be compared with; of a probe, with other probes too."""
    if cell.spec.job != PROBE:
        return cell.group
    settings = {name: value for name, value in cell.spec.settings.items() if name != "probe"}
    return digest_of([cell.spec.checkpoint.digest, cell.spec.device, settings])


def _place_of(cell: Listed) -> tuple[str, str, str]:
    collection = cell.spec.collection.digest if cell.spec.job != PROBE else ""
    return collection, cell.spec.checkpoint.digest, cell.spec.device


def _with_own_repeats(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Cells in the order of their versions, each followed by its repeats."""
    yield from sorted(cells, key=lambda c: (name_key(c.version), c.spec.probe, c.repeat))


def describe(cells: Sequence[Listed]) -> str:
    """One line that tells a set of comparable cells from another."""
    spec = cells[0].spec
    what = f"{spec.collection.name} ({count(spec.collection.passages, 'passage')}), "
    threads = spec.settings.get("threads")
    at_once = f"{count(threads, 'thread')}, " if isinstance(threads, int) else ""
    at_once += f"{count(spec.ranks, 'rank')}, " if spec.ranks > 1 else ""
    return printable(
        f"{'' if spec.job == PROBE else what}{spec.checkpoint.name}, {spec.device}, "
        f"{at_once}"
        f"{count(len({cell.version for cell in cells}), 'version')}"
    )


def planned_cells(experiment: Experiment, cells: Sequence[Cell]) -> Choice:
    """The cells of a plan that has run, with what else is stored of their repeats.

    So that a sweep and `harness consecutive` with the same options give the same tables. Where a run ended badly and
    the stored cell stayed, the run is what the sweep is about.
    """
    store = experiment.store
    own = {one.key: one for cell in cells for one in store.repeats(cell)} | {cell.key: cell for cell in cells}
    versions = {cell.version for cell in cells}
    locks = {version: experiment.lock(version) for version in sorted(versions, key=name_key)}
    return Choice(store, tuple(_with_own_repeats(list(own.values()))), store.listed(), locks)
