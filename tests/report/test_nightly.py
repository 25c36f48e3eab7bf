"""A night fails on what is new and on nothing else; the workflow's own steps and the cron line do what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import InfrastructureError, UsageError
from harness.report.headline import Headline
from harness.report.nightly import RANKS, Night, NightRow, compare_nights, findings_of, night_names, report
from harness.report.nightly_text import markdown, sentence
from harness.running.plan import Planned, run_older
from harness.store.store import Store
from tests.support.cell_specs import cell, spec
from tests.support.checkpoints import write_checkpoint
from tests.support.fake_worker import fake_interpreter
from tests.support.programs import FAKE
from tests.support.small_index import index_arrays, write_index
from tests.support.standin import PASSAGES

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "nightly.yml"
STEP = ("2.7.1", "2.8.0")


def night(name: str, group: str = "g", digests: dict[str, str] | None = None, **findings: str | NightRow) -> Night:
    """A night of one step; each finding is a status or the whole of it."""
    found = {
        (STEP, artifact): one if isinstance(one, NightRow) else NightRow(one, frozenset(), noise=False, final=True)
        for artifact, one in findings.items()
    }
    headline = Headline(*STEP, total=len(found), gap="" if found else "2.8.0: crashed")
    return Night(name, group, {}, found, (headline,), {("k", "2.8.0", a): d for a, d in (digests or {}).items()})


def failing(status: str, *profiles: str, noise: bool = False) -> NightRow:
    return NightRow(status, frozenset(profiles), noise, final=True)


def new(tonight: Night, *earlier: Night) -> list[str]:
    return [one.artifact for one in report(tonight, earlier).new]


def test_a_version_whose_lock_changed_since_the_last_night_is_named() -> None:
    """What is new then is not the release's doing, or need not be."""
    tonight = replace(night("3", ivf="different"), keys={"2.7.1": "same", "2.8.0": "other lock"})
    before = replace(night("2", ivf="bit_equal"), keys={"2.7.1": "same", "2.8.0": "a lock"})

    found = report(tonight, [replace(night("1"), keys={"2.8.0": "other lock"})])
    assert found.relocked == ()
    found = report(tonight, [before])
    assert found.relocked == ("2.8.0",)
    assert "Other cells than the last time: 2.8.0, whose lock or oddities changed" in markdown(found)


def with_new(gap: str = "", **findings: str | NightRow) -> Night:
    """A night with a version more, which changes what is given."""
    old = night("2", ivf="bit_equal")
    step = ("2.8.0", "2.9.0")
    found = {
        (step, artifact): one if isinstance(one, NightRow) else NightRow(one, frozenset(), noise=False, final=True)
        for artifact, one in findings.items()
    }
    return replace(old, findings={**old.findings, **found}, headline=(*old.headline, Headline(*step, gap=gap)))


INSIDE = NightRow("different", frozenset(), noise=False, final=False)


@pytest.mark.parametrize(
    ("tonight", "told"),
    [
        (with_new(ivf="bit_equal"), "2.9.0: changes nothing here."),
        (with_new(ivf=failing("different", noise=True)), "2.9.0: changes nothing here."),
        (with_new(ivf="close", codes="different"), "2.9.0: changes ivf, codes against 2.8.0."),
        (
            with_new(ivf="bit_equal", embs_0=INSIDE),
            "2.9.0: changes nothing here in the index; inside the pipeline it changes embs_0.",
        ),
        (with_new("2.9.0: crashed"), "2.9.0: could not be compared with 2.8.0 (2.9.0: crashed)."),
        (
            replace(with_new(ivf="bit_equal"), unknown=((("2.8.0", "2.9.0"), "codes"),)),
            "2.9.0: changes nothing else here. Not known: codes.",
        ),
    ],
)
def test_what_a_new_version_changes_is_said_of_it(tonight: Night, told: str) -> None:
    text = markdown(report(tonight, [night("1", ivf="bit_equal")]))

    assert f"### New versions\n\n- {told}\n" in text


def test_a_version_is_new_until_it_has_been_compared() -> None:
    failed, good = with_new("2.9.0: crashed"), with_new(ivf="bit_equal")
    first = night("1", ivf="bit_equal")

    assert report(good, []).added == ()
    assert report(failed, [failed, first]).added == ()
    assert [one.step for one in report(good, [failed, first]).added] == [("2.8.0", "2.9.0")]
    assert report(good, [good, first]).added == ()


@pytest.mark.parametrize(("add", "calls"), [("no", ["sweep --older-than 12"]), ("yes", ["versions --add", "sweep"])])
def test_releases_are_added_where_that_is_asked_for_and_then_only_what_is_new_runs(
    tmp_path: Path, add: str, calls: list[str]
) -> None:
    (tmp_path / "nox").write_text('#!/bin/sh\nshift; name=$1; shift 2; echo "$name $*" >> calls\n')
    (tmp_path / "nox").chmod(0o755)
    job = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["sweep"]
    assert default_of(job["env"]["ADD"]) == "no"
    variables = {
        "ADD": add,
        "OPTIONS": "--evict",
        "NIGHTS": "n",
        "NIGHT": "1",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }

    for step in job["steps"]:
        if step.get("name") in {"Add new releases", "Sweep"}:
            subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=variables, check=True)

    called = (tmp_path / "calls").read_text().splitlines()
    assert called == [f"{call} --evict --output n/1" if call.startswith("sweep") else call for call in calls]


def test_the_first_night_is_the_baseline() -> None:
    assert new(night("1", ivf="different", centroids="shape_mismatch")) == []
    assert "known from now on" in sentence(report(night("1", ivf="different"), []))


def test_a_divergence_that_was_there_is_not_news() -> None:
    assert new(night("2", ivf="different", codes="close"), night("1", ivf="different", codes="close")) == []


@pytest.mark.parametrize("before", RANKS)
@pytest.mark.parametrize("now", RANKS)
def test_only_a_worse_status_is_news(before: str, now: str) -> None:
    assert bool(new(night("2", ivf=now), night("1", ivf=before))) == (RANKS[now] > RANKS[before])
    assert bool(report(night("2", ivf=now), [night("1", ivf=before)]).gone) == (RANKS[now] < RANKS[before])


def test_a_profile_that_fails_for_the_first_time_is_news() -> None:
    was, now = failing("different", "default"), failing("different", "default", "bnb")

    assert new(night("2", ivf=now), night("1", ivf=was)) == ["ivf"]
    assert new(night("2", ivf=was), night("1", ivf=now)) == []


def test_noise_of_either_night_is_not_news() -> None:
    noisy = failing("different", "default", noise=True)

    assert new(night("2", ivf=noisy), night("1", ivf="bit_equal")) == []
    assert new(night("2", ivf="different"), night("1", ivf=noisy)) == []


def test_a_night_in_which_a_version_crashed_neither_hides_nor_invents() -> None:
    gap = night("2")

    assert new(night("3", ivf="different"), gap, night("1", ivf="different")) == []
    assert new(night("3", ivf="different"), gap, night("1", ivf="close")) == ["ivf"]
    assert new(gap, night("1", ivf="different")) == []
    assert [row.gap for row in report(gap, [night("1", ivf="different")]).gaps] == ["2.8.0: crashed"]


def test_a_step_that_was_never_compared_is_news_once() -> None:
    old = replace(night("1"), findings={(("2.7.0", "2.7.1"), "ivf"): failing("different")})
    tonight = night("2", ivf="close", codes="bit_equal")

    assert new(tonight, old) == ["ivf"]
    assert new(replace(tonight, name="3"), tonight, old) == []


def test_bits_that_drift_under_the_same_key_are_said_and_are_no_divergence() -> None:
    found = report(
        night("2", digests={"ivf": "b"}, ivf="bit_equal"), [night("1", digests={"ivf": "a"}, ivf="bit_equal")]
    )

    assert found.new == ()
    assert found.drifted == (("2.8.0", "ivf"),)
    assert "other bits than the last time: ivf of 2.8.0" in markdown(found)


def test_what_is_not_known_is_neither_news_nor_forgotten() -> None:
    """An artifact that a side could not record or read: a night of another knowledge is asked instead."""
    lacks = replace(night("2", codes="bit_equal"), unknown=((STEP, "ivf"),))

    assert new(lacks, night("1", ivf="different", codes="bit_equal")) == []
    assert "Not known tonight, because a side could not be read or recorded: ivf (2.7.1 -> 2.8.0)." in markdown(
        report(lacks, [])
    )
    assert new(night("3", ivf="different", codes="bit_equal"), lacks, night("1", ivf="different")) == []
    assert new(night("3", ivf="different", codes="bit_equal"), lacks, night("1", ivf="close")) == ["ivf"]
    row = {"kind": "consecutive", "a": "2.7.1", "b": "2.8.0", "noise": None, "final": True, "n_mismatch": None, "n": 1}
    rows: list[dict[str, Any]] = [
        row | {"artifact": "ivf", "status": "missing_b", "bit_equal": None, "failing": None},
        row | {"artifact": "codes", "status": "bit_equal", "bit_equal": True, "failing": []},
    ]
    found = findings_of(rows)
    assert {(STEP, "codes"): frozenset()} == {place: one.failing for place, one in found.items()}


def test_cells_that_ended_long_ago_run_again_and_others_do_not() -> None:
    now = datetime(2026, 1, 2, 1, 17, tzinfo=UTC)

    def planned(hours: float, outcome: str = "ok") -> Planned:
        finished = (now - timedelta(hours=hours)).isoformat(timespec="seconds")
        return Planned(spec(), cell(outcome=outcome, finished=finished), run=False, why="stored")

    plan = [planned(24), planned(11), planned(24, "unsupported"), Planned(spec(), None, run=True, why="not there")]
    plan.append(replace(planned(24), stored=cell(finished="")))

    assert [one.run for one in run_older(plan, 12, now)] == [True, False, False, True, True]


# ---- the workflow's own steps --------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from harness import cli
from harness.environments import build as environments, uv
environments.uv_command = uv.uv_command = lambda: [sys.executable, "-S", {fake!r}, {uv!r}]
environments.Environment.python = property(lambda self: Path({python!r}))
cli.main(sys.argv[1:])
"""
WORKER = (
    "key = cell['key']\n"
    "def told(name): return key in (made / name).read_text() if (made / name).exists() else False\n"
    "phase('import')\n"
    "if told('crash'): sys.exit(5)\n"
    "phase('finalize')\n"
    "shutil.copytree(made / ('other' if told('changed') else 'index'), out / 'index')\n"
    "result()\n"
)


@dataclass
class Machine:
    """A self-hosted runner in a folder: a home, a `nox` that runs `harness` itself, and steps as a runner runs them.

    Attributes:
        folder: everything is below it.
        options: what every sweep gets beside its own options; cells of two versions on a small collection.
    """

    folder: Path
    options: list[str]
    driver: list[str]

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR", "UV_CACHE_DIR") if name in os.environ}
        return {**kept, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder / "user"),
                "RUNNER_TEMP": str(self.folder)}  # fmt: skip

    def prepare(self) -> None:
        (self.folder / "bin").mkdir()
        (self.folder / "user").mkdir()
        (self.folder / "user" / "harness").symlink_to(ROOT)
        nox = self.folder / "bin" / "nox"
        # As the sessions of noxfile.py: the command, with its exit code.
        nox.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            "assert sys.argv[1] == '-s' and sys.argv[3] == '--', sys.argv\n"
            "name, rest = sys.argv[2], sys.argv[4:]\n"
            f"more = json.load(open({str(self.folder / 'options.json')!r})) if name == 'sweep' else []\n"
            f"command = {self.driver!r}\nos.execv(command[0], [*command, name, *more, *rest])\n"
        )
        nox.chmod(0o755)

    def say(self) -> None:
        (self.folder / "options.json").write_text(json.dumps(self.options))

    @property
    def store(self) -> Store:
        return Store(self.folder / "user" / "harness-nightly" / "home" / "store")

    def next_evening(self) -> None:
        """Let a day pass: the stored cells ended yesterday."""
        for one in self.store.cells():
            finished = datetime.fromisoformat(one.finished) - timedelta(days=1)
            self.store.write(replace(one, finished=finished.isoformat(timespec="seconds")))

    def night(self, **variables: str) -> tuple[bool, str]:
        """Run the workflow's steps; whether the job succeeds, and its summary.

        Args:
            variables: of the job's `env`, instead of its defaults.
        """
        self.say()
        job = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["sweep"]
        assert job["defaults"]["run"]["shell"] == "bash"
        files = {name: self.folder / name.lower() for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
        for path in files.values():
            path.write_text("")
        environment = {**self.environment(), **{name: str(path) for name, path in files.items()}}
        environment |= {name: default_of(value) for name, value in job["env"].items()} | variables
        # The workflow sweeps all versions; these nights are of two, and a sweep refuses to repeat another.
        environment["OPTIONS"] = re.sub(rf"--repeat (?!{'|'.join(STEP)})\S+", "", environment["OPTIONS"])
        succeeded = True
        for step in job["steps"]:
            # Actions are the forge's own; nox is here already, without a package index.
            if "run" not in step or step["name"] == "Install nox" or not succeeded:
                continue
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
            )  # fmt: skip
            print(f"--- {step['name']}: {done.returncode}\n{done.stdout}\n{done.stderr}")
            succeeded = done.returncode == 0 or step.get("continue-on-error", False)
            for line in files["GITHUB_ENV"].read_text().splitlines():
                name, _, value = line.partition("=")
                environment[name] = value
        return succeeded, files["GITHUB_STEP_SUMMARY"].read_text()


def default_of(value: str) -> str:
    """The value of an expression such as `${{ vars.X || 'this' }}` where nothing is configured."""
    match = re.fullmatch(r"\$\{\{ (?:[\w.]+ \|\| )*'([^']*)' \}\}", value)
    assert match, value
    return match[1]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With stand-ins for uv and for the worker."""
    fake = fake_interpreter(tmp_path / "fake", WORKER)
    arrays = index_arrays()
    arrays["centroids"] = arrays["centroids"].copy()
    arrays["centroids"][0, 0] += 1
    write_index(tmp_path / "fake" / "other", arrays)
    (tmp_path / "uv").mkdir()
    (tmp_path / "driver.py").write_text(DRIVER.format(fake=str(FAKE), uv=str(tmp_path / "uv"), python=str(fake.python)))
    (tmp_path / "c.jsonl").write_text(PASSAGES)
    checkpoint = write_checkpoint(tmp_path / "ck")
    options = [*STEP, "--collection", str(tmp_path / "c.jsonl"), "--checkpoint", str(checkpoint), "--threads", "1"]
    made = Machine(tmp_path, [*options, "--device", "cpu"], [sys.executable, str(tmp_path / "driver.py")])
    made.prepare()
    return made


def keys_of(machine: Machine, version: str) -> str:
    """Keys of a version's cell and of its repeats."""
    return " ".join(one.key for one in machine.store.cells() if one.version == version)


def test_the_workflow_runs_every_night_on_a_machine_of_its_own_and_keeps_the_tables() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true.
    triggers: dict[str, Any] = workflow[True]
    job = workflow["jobs"]["sweep"]

    assert re.fullmatch(r"\d+ \d+ \* \* \*", triggers["schedule"][0]["cron"])
    assert {"self-hosted", "gpu"} <= set(job["runs-on"])
    assert workflow["permissions"] == {"contents": "read"}
    assert not workflow["concurrency"]["cancel-in-progress"]
    (upload,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert upload["if"] == "always()"
    # An expression in a script is a way in for whoever can set its value; variables are not.
    assert all("${{" not in step.get("run", "") for step in job["steps"])
    for name in ("KEEP", "OPTIONS"):
        assert default_of(job["env"][name])
    for session in re.findall(r"nox -s (\S+)", WORKFLOW.read_text(encoding="utf-8")):
        assert f'@reducer("{session}")' in (ROOT / "noxfile.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_workflow_s_steps_over_five_nights_of_two_versions(machine: Machine) -> None:
    """Nothing, a divergence, the same again, a crash, a night without tables: it fails on the second and the last."""
    good, summary = machine.night()
    assert good
    assert "No earlier night" in summary
    keys = keys_of(machine, "2.8.0")
    ran = [one.finished for one in machine.store.cells()]

    machine.next_evening()
    (machine.folder / "fake" / "changed").write_text(keys)
    good, summary = machine.night()
    assert not good
    assert "1 new divergence in 2.7.1 -> 2.8.0" in summary
    assert "| 2.7.1 | 2.8.0 | centroids | bit_equal | different, 1 of 32" in summary
    assert "| NEW |" in summary
    assert [one.finished for one in machine.store.cells()] >= ran

    machine.next_evening()
    good, summary = machine.night()
    assert good
    assert "Nothing diverges that did not diverge before" in summary
    assert "NEW" not in summary

    machine.next_evening()
    (machine.folder / "fake" / "crash").write_text(keys)
    good, summary = machine.night()
    assert good
    assert "1 of 1 step could not be compared tonight" in summary

    machine.next_evening()
    machine.options.append("9.9.9")
    good, summary = machine.night()
    assert not good
    assert "tonight's sweep came to no result" in summary
    assert len(night_names(machine.folder / "user" / "harness-nightly" / "nights")) == 4


def cron_line() -> str:
    text = (ROOT / "docs" / "nightly.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\d+ \d+ \* \* \* (.*)$", text, re.MULTILINE)
    # cron takes a bare percent sign for a line break.
    return str(line).replace("\\%", "%")


@pytest.mark.slow
def test_the_cron_line_sends_mail_only_when_something_is_new(machine: Machine) -> None:
    mail = machine.folder / "bin" / "mail"
    mail.write_text(f'#!/bin/sh\n{{ echo "$@"; cat; }} > {machine.folder / "sent"}\n')
    mail.chmod(0o755)

    def run() -> str:
        machine.say()
        (machine.folder / "sent").unlink(missing_ok=True)
        subprocess.run(["sh", "-c", cron_line()], env=machine.environment(), cwd="/", check=False, timeout=600)
        return (machine.folder / "sent").read_text() if (machine.folder / "sent").exists() else ""

    (machine.folder / "user" / "harness-nightly").mkdir()
    assert run() == ""
    keys = keys_of(machine, "2.8.0")
    machine.next_evening()
    (machine.folder / "fake" / "changed").write_text(keys)
    sent = run()
    assert "new divergence in 2.7.1 -> 2.8.0" in sent
    assert "you@example.org" in sent
    machine.next_evening()
    assert run() == ""


# ---- tables that are not there, or not whole -----------------------------------------------------------------------


def test_a_folder_without_nights_and_one_without_tonight(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        compare_nights(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no night"):
        compare_nights(tmp_path)
    with pytest.raises(InfrastructureError, match="came to no result"):
        compare_nights(tmp_path, "2026-01-31")


def test_a_damaged_night_is_left_out_and_named_and_tonight_s_is_a_sentence(machine: Machine) -> None:
    machine.night()
    nights = machine.folder / "user" / "harness-nightly" / "nights"
    (first,), second = night_names(nights), "9999-12-31"
    shutil.copytree(nights / first, nights / second)
    (nights / first / "comparisons.parquet").write_bytes(b"PAR1 and then nothing")

    found = compare_nights(nights, second)
    assert (found.unreadable, found.compared_with, found.new) == ((first,), "", ())
    assert first in markdown(found)
    with pytest.raises(UsageError, match="cannot be read"):
        compare_nights(nights, first)


@pytest.mark.integration
def test_the_workflow_s_steps_with_two_real_versions(tmp_path: Path) -> None:
    """Real environments and the real indexer over 30 passages: the second night finds nothing new."""
    base = Path(os.environ.get("HARNESS_HOME") or ROOT / ".harness").resolve()
    options = [*STEP, "--collection", "embedded", "--checkpoint", "embedded", "--limit", "30", "--device", "cpu"]
    machine = Machine(tmp_path, options, [sys.executable, "-m", "harness"])
    machine.prepare()
    home = tmp_path / "user" / "harness-nightly" / "home"
    home.mkdir(parents=True)
    (home / "envs").symlink_to(base / "envs")
    (home / "cache").symlink_to(base / "cache")

    # Without the default's --evict: the environments are those of other tests.
    good, summary = machine.night(OPTIONS="--repeat 2.8.0")
    assert good, summary
    machine.next_evening()
    good, summary = machine.night(OPTIONS="--repeat 2.8.0")

    assert good, summary
    assert "Nothing diverges that did not diverge before" in summary
    assert "other bits than the last time" not in summary
