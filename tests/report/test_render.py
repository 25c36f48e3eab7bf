"""Text that fits: no word split, no chunk lost, and no kind that looks equal when one of its chunks is not."""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.artifacts.comparison import STATUSES, ArtifactComparison, Comparison, compare_sources
from harness.artifacts.directory import IndexDirectory
from harness.artifacts.graph import Change, Place
from harness.artifacts.ladder import all_pairs, ladder
from harness.explain.compared import ComparedCells
from harness.report.comparison_text import kinds_of, paragraph, rows, text
from harness.report.console import headline_text
from harness.report.headline import COLUMNS, Headline
from harness.report.kinds import Kinds
from harness.report.ladder_text import ladder_text, pairs_text
from harness.report.reduce import Reduced
from harness.report.screen import PLAIN, Screen, cells, table, wrap
from harness.tensors.metrics import measure
from harness.tensors.profiles import BUILTIN, ProfileVerdict
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import cell
from tests.support.command import run
from tests.support.probe_bench import SMALL, ProbeBench
from tests.support.pt_files import pack, write_index, write_pt

WIDTHS = [60, 80, 120, 200]
CHUNKS = 16


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of 16 chunks three differ in codes and residuals, one has unreadable codes, and one has none in B."""
    folder = tmp_path_factory.mktemp("indexes")
    for name in "ab":
        arrays = write_index(folder / name, chunks=CHUNKS)
    b = folder / "b"
    for chunk in (2, 3, 7):
        codes, buckets = arrays[f"{chunk}.codes"].copy(), arrays[f"{chunk}.buckets"].copy()
        codes[:chunk] = (codes[:chunk] + 1) % 16
        buckets[0, :chunk] = (buckets[0, :chunk] + 1) % 4
        write_pt(b / f"{chunk}.codes.pt", codes)
        write_pt(b / f"{chunk}.residuals.pt", pack(buckets, 2))
    (b / "9.codes.pt").write_bytes(b"PK")
    (b / "11.codes.pt").unlink()
    return folder / "a", b


@pytest.fixture(scope="module")
def comparison(indexes: tuple[Path, Path]) -> Comparison:
    return compare_sources(IndexDirectory(indexes[0]), IndexDirectory(indexes[1]))


@pytest.fixture
def bench(tmp_path: Path) -> ProbeBench:
    return ProbeBench(tmp_path)


def row_of(comparison: Comparison, name: str) -> list[str]:
    return next(row for row in rows(comparison, kinds_of(comparison)) if row[0].startswith(name))


def too_long(shown: str, width: int) -> list[str]:
    """Lines longer than the screen that could have been folded."""
    return [line for line in shown.splitlines() if cells(line) > width and len(line.split()) > 1]


# ---- what fits


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("apart", [False, True])
def test_a_comparison_fits_and_splits_no_word(comparison: Comparison, width: int, apart: bool) -> None:
    narrow, wide = text(comparison, Screen(width), apart=apart), text(comparison, apart=apart)
    said = [line for line in narrow.splitlines() if "Left out" in line]

    assert too_long(narrow, width) == []
    assert bool(said) == (width < (120 if apart else 200))
    extra = set(narrow.split()) - set(wide.split())
    assert all(word.strip(".,") in wide or word.strip("-") == "" or said for word in extra)
    # From the first paragraph on nothing is left out.
    details = [shown[shown.index("\n\ncodes" if not apart else "\n\n2.codes") :].split() for shown in (narrow, wide)]
    assert details[0] == details[1]


def test_lesser_columns_go_first_and_a_line_names_them(comparison: Comparison) -> None:
    titles = [text(comparison, Screen(width)).split("\nartifact")[1].splitlines()[0].split() for width in (60, 80, 120)]
    lines = [" ".join(text(comparison, Screen(width)).split()) for width in (80, 120)]

    assert titles[0] == ["status", "default"]
    assert all("default" in title for title in titles)
    assert len(titles[0]) < len(titles[1]) < len(titles[2])
    assert "Left out at this width: min rtol, in ULP, shape, dtype" in lines[0]
    assert "Left out at this width: min rtol" in lines[1]
    assert "--json shows all." in lines[0]
    assert "Left out" not in text(comparison)


@pytest.mark.parametrize("width", WIDTHS)
def test_names_of_artifacts_are_never_cut(width: int) -> None:
    names = ["tensorize_output.reverse_indices", "tensorize_output.attention_mask", "x" * 59]
    found = Comparison(
        "a", "b", tuple(ArtifactComparison(name, "missing_b") for name in names), ("default",), "default"
    )

    assert all(text(found, Screen(width)).split().count(name) == 1 for name in names)


@given(text_=st.lists(st.text("ab1,.%[]()世", min_size=1, max_size=12), max_size=12).map(" ".join),
       width=st.integers(1, 40), margin=st.integers(0, 6))  # fmt: skip
def test_wrapping_keeps_every_word(text_: str, width: int, margin: int) -> None:
    lines = wrap(text_, width, margin)

    assert " ".join(lines).split() == text_.split()
    assert wrap(text_, None) == [text_]
    for line in lines:
        # Longer only where what is on the line is one piece: a word, or a number with its sign, or a place.
        assert cells(line) <= width or len(wrap(line.strip(), 1)) == 1


def test_what_belongs_together_stays_on_a_line() -> None:
    line = "at [8, 17] (A -0.5, B 3), 0.5 % of codes (3 of 16 chunks), and conditionalqa (6,653 passages)."

    pieces = wrap(line, 1)

    assert {"[8, 17]", "(A -0.5,", "B 3),", "0.5 %", "codes (3 of 16 chunks),"} < set(pieces)
    assert "conditionalqa (6,653 passages)." in pieces


@given(st.lists(st.lists(st.text("ab 1", max_size=30).map(str.strip), min_size=5, max_size=5), min_size=1, max_size=4),
       st.integers(62, 120))  # fmt: skip
def test_a_table_loses_nothing_but_what_it_says(body: list[list[str]], width: int) -> None:
    header = ["first", "one", "two", "three", "four"]
    lines = table(header, body, Screen(width), lesser=[4, 2])
    shown = " ".join(lines)
    left = re.search(r"Left out at this width: ([\w, ]+)\.", shown)
    kept = [k for k, title in enumerate(header) if left is None or title not in left[1]]

    words = Counter(" ".join(row[k] for row in body for k in kept if k).split())
    assert not words - Counter(shown.split())
    assert [line for line in lines if len(line) > width and len(re.findall(r"\S+(?: \(\d+ \w+\))?", line)) > 2] == []
    assert table(header, body) == table(header, body, Screen(1000))


def test_columns_that_do_not_fit_follow_with_the_first_beside_them() -> None:
    """A triangle of 19 versions at 60 columns keeps all its pairs."""
    items = [(f"2.{k}.0", {"centroids": str(k)}) for k in range(19)]
    names = [name for name, _ in items]
    shown = pairs_text(names, all_pairs(items), Screen(60))

    assert too_long(shown, 60) == []
    assert shown.split().count("1") == 171
    assert set(names) <= set(shown.split())
    assert pairs_text(names, all_pairs(items)).count("\n\n") == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_the_headline_table_fits(width: int) -> None:
    gap = "2.8.0: out_of_memory (the GPU has 4 GiB and the job asked for 12 GiB more than was free)"
    lines = [Headline("1.13.1", "2.8.0", 12, 11, {"default": 0, "bnb": 2}, 0), Headline("2.7.1", "2.8.0", gap=gap)]
    pairs = [
        ComparedCells(cell(), cell(), "consecutive"),
        ComparedCells(cell(), cell(outcome="crashed", artifacts={}), "consecutive"),
    ]
    shown = headline_text(Reduced("about " * 30, pairs, lines, []), Screen(width))

    assert too_long(shown, width) == []
    assert ("Left out" in shown) == (width < 120)
    assert not Counter(gap.split()) - Counter(shown.split())
    assert "False (0/12)" in shown
    wide = headline_text(Reduced("about", pairs, lines, []), PLAIN)
    assert all(title in wide for title in COLUMNS)
    assert gap in wide


def test_the_headlines_side_by_side_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    files = [tmp_path / f"table_{k}.csv" for k in range(5)]
    for file in files:
        file.write_text("a,b,total,shapes_match,default_match,bnb_match\n2.7.1,2.8.0,12,11,0,2\n")
    whole = run(capsys, "headlines", *files)[1]
    monkeypatch.setenv("COLUMNS", "60")
    narrow = run(capsys, "headlines", *files)[1]

    assert too_long(narrow, 60) == []
    assert whole.count("shapes 11/12, default 0/12, bnb 2/12") == 5
    assert " ".join(narrow.split()).count("bnb 2/12") == 5
    assert narrow.count("2.7.1 -> 2.8.0") > 1


def test_the_lines_about_probes_fit(bench: ProbeBench, capsys: pytest.CaptureFixture[str],
                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for version in ("2.7.1", "2.8.0"):
        bench.cell(version, [(f"case {k}", "values", SMALL + np.float32(version == "2.8.0")) for k in range(9)])
    whole = run(capsys, "probes", "--home", bench.folder)
    monkeypatch.setenv("COLUMNS", "60")
    narrow = run(capsys, "probes", "--home", bench.folder)

    assert too_long(whole[1], 60) != []
    assert too_long(narrow[1], 60) == []
    assert narrow[1].split() == whole[1].split()
    assert narrow[0] == whole[0] == 1


# ---- chunks


def test_chunks_are_one_row_and_one_paragraph(comparison: Comparison) -> None:
    shown = text(comparison)
    names = [row[0] for row in rows(comparison, kinds_of(comparison))]

    assert names.count("codes (16 chunks)") == 1
    assert "0.codes" not in names
    assert row_of(comparison, "codes")[1] == "11 bit-equal, 3 differ, 1 missing in B, 1 unreadable"
    assert row_of(comparison, "residuals")[1] == "3 of 16 differ"
    assert len(re.findall(r"^codes \(16 chunks\): ", shown, re.MULTILINE)) == 1
    assert "3 different beyond the tolerance (chunks 2-3, 7)" in shown
    assert "1 only in A (chunk 11)" in shown
    assert "  9.codes: B: " in shown  # why it could not be read
    assert "differ beyond 'default' in codes (3 of 16 chunks), residuals (3 of 16 chunks): " in shown
    assert "1 artifact could not be read: 9.codes." in shown


def test_counts_are_sums_and_the_worst_chunk_is_named(comparison: Comparison) -> None:
    residuals = [one for one in comparison.artifacts if one.name.endswith(".residuals")]
    shown = "\n".join(paragraph(residuals, "default", kinds_of(comparison)))
    measured = [one.metrics for one in residuals if one.metrics]
    differing, n = sum(one.n_mismatch for one in measured), sum(one.n for one in measured)
    worst = max(residuals, key=lambda one: one.metrics.max_abs if one.metrics else 0)
    buckets = sum(one.facts.get("buckets_n_mismatch", 0) for one in residuals)

    assert f"Mismatched elements: {differing:,} / {n:,}" in shown
    assert f"Greatest absolute difference: {max(one.max_abs for one in measured):.0f} in {worst.name} at" in shown
    assert (12, 3) == (buckets, sum(one.n_mismatch > 0 for one in measured))
    assert "Bucket numbers (2 bits): 12 of " in shown
    assert row_of(comparison, "residuals")[7].startswith(f"{differing} (")
    codes = "\n".join(paragraph([one for one in comparison.artifacts if one.name.endswith(".codes")], "default",
                                kinds_of(comparison)))  # fmt: skip
    assert re.search(r"near-ties and \d+ real moves among 12, ", codes)
    assert "in the 14 chunks that were compared" in codes
    assert row_of(comparison, "codes")[7].endswith("in 14 chunks")


@given(st.lists(st.sampled_from(STATUSES), min_size=2, max_size=9))
def test_a_kind_never_looks_equal_unless_all_its_chunks_are(statuses: list[str]) -> None:
    """The counts of a mixed row add up, in the table and in the paragraph, at any width."""
    verdicts = {"default": ProfileVerdict("default", 0.0, 0.0, False)}
    artifacts = tuple(ArtifactComparison(f"{k}.codes", status, profiles=verdicts) for k, status in enumerate(statuses))
    comparison = Comparison("a", "b", artifacts, ("default",), "default")
    shown = row_of(comparison, "codes")[1]
    counts = Counter(statuses)

    assert (shown == "all bit-equal") == (set(statuses) == {"bit_equal"})
    if len(counts) == 1:
        assert shown.startswith("all ")
    elif re.search(r"\d of \d", shown):
        assert len(counts) == 2
        assert shown.startswith(f"{len(statuses) - counts['bit_equal']} of {len(statuses)} ")
    else:
        assert sum(map(int, re.findall(r"\d+", shown))) == len(statuses)
    assert ("(chunk" in "".join(paragraph(artifacts, "default", kinds_of(comparison)))) == (len(counts) > 1)
    styled = text(comparison, Screen(60, styles=True, colours=True))
    assert ("\x1b[31m" in styled or "\x1b[33m" in styled) == (shown != "all bit-equal")


def test_the_worst_verdict_of_any_chunk_is_that_of_the_kind() -> None:
    """A NaN in one chunk, no verdict on another, and a NaN count over all chunks."""
    nan = measure(Tensor.of(np.array([np.nan, 1.0], np.float32)), Tensor.of(np.array([np.nan, 1.0], np.float32)))
    fine = measure(Tensor.of(np.ones(2, np.float32)), Tensor.of(np.ones(2, np.float32)))
    found = [
        ArtifactComparison(f"embs_{k}", "bit_equal" if metrics.bit_equal else "different", metrics=metrics,
                           profiles={one.profile: one for one in metrics.verdicts})
        for k, metrics in enumerate([fine, nan, fine])
    ]  # fmt: skip
    unknown = replace(found[0], name="embs_3", profiles={"default": ProfileVerdict("default", 0, 0, None)})
    names = tuple(profile.name for profile in BUILTIN)

    comparison = Comparison("a", "b", (*found, unknown), names, "default")

    assert row_of(comparison, "embs (4 chunks)")[5] == "NO"
    assert row_of(Comparison("a", "b", (found[0], unknown), names, "default"), "embs")[5] == "no verdict"
    assert "NaN 1 in A and 1 in B, in the same places" in text(comparison)
    # Of equal digests nothing is known but the number of NaNs.
    settled = replace(found[1], metrics=replace(nan, first=()))
    assert "First mismatches" not in text(Comparison("a", "b", (settled,), names, "default"))


def test_digests_that_differ_are_not_said_to_be_beyond_a_tolerance() -> None:
    """Nothing was kept to be judged."""
    found = [ArtifactComparison(f"{k}.codes", "different", reason=f"A: {k}.codes was not kept.") for k in range(8)]
    shown = paragraph(found, "default", Kinds(one.name for one in found))

    assert shown[0] == "codes (8 chunks): all 8 different."
    assert shown[1:4] == [f"  {k}.codes: A: {k}.codes was not kept." for k in range(3)]
    assert shown[4:] == ["  And 5 more of these, which --chunks shows one by one."]


def test_facts_that_cannot_be_put_together_are_told_by_chunk() -> None:
    """A note about two of three chunks, and one that nobody has thought of here."""
    facts = [{"note": "left"}, {"note": "right"}, {"note": "left"}]
    found = [ArtifactComparison(f"{k}.codes", "different", facts=fact) for k, fact in enumerate(facts)]
    shown = paragraph(found, "default", Kinds(one.name for one in found))

    assert "  Chunks 0, 2: left" in shown
    assert "  Chunk 1: right" in shown


def test_where_it_starts_is_told_once_or_by_chunk() -> None:
    def one(k: int, change: Change, *inputs: str) -> ArtifactComparison:
        return ArtifactComparison(f"{k}.codes", "different", place=Place(f"{k}.codes", "compress", (), change, inputs))

    found = [one(0, Change.INHERITED, "embs_0", "centroids"), one(1, Change.INHERITED, "embs_1", "centroids")]
    kinds = Kinds(["embs_0", "embs_1", "centroids", "0.codes", "1.codes"])

    assert paragraph(found, "default", kinds)[-1].endswith("differs (embs (2 chunks), centroids).")
    mixed = "\n".join(paragraph([found[0], one(1, Change.ORIGIN)], "default", kinds))
    assert "  Chunk 0: Inherited: " in mixed
    assert "  Chunk 1: Origin (step: compress): " in mixed


def test_one_chunk_reads_as_ever(tmp_path: Path) -> None:
    for name in "ab":
        arrays = write_index(tmp_path / name, chunks=1)
    write_pt(tmp_path / "b" / "0.codes.pt", (arrays["0.codes"] + 1) % 16)
    shown = text(compare_sources(IndexDirectory(tmp_path / "a"), IndexDirectory(tmp_path / "b")))

    assert "chunks)" not in shown
    assert re.search(r"^0\.codes +DIFFERENT ", shown, re.MULTILINE)
    assert "\n0.codes: differs beyond the tolerance.\n  Mismatched elements: " in shown
    assert "(integers must be equal)" in shown


def test_the_option_shows_every_chunk_and_json_always_does(
    indexes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(capsys, "compare", *indexes, "--chunks")[1]
    few = run(capsys, "compare", *indexes)[1]
    plain, with_option = (run(capsys, "compare", *indexes, "--json", *more)[1] for more in ([], ["--chunks"]))

    for chunk in range(CHUNKS):
        assert len(re.findall(rf"^{chunk}\.codes ", whole, re.MULTILINE)) == 1
    assert "chunks)" not in whole
    assert "\n7.residuals: differs beyond the tolerance." in whole
    assert len(few.splitlines()) < len(whole.splitlines()) / 2
    assert plain == with_option
    assert sum(one["name"].endswith(".codes") for one in json.loads(plain)["artifacts"]) == CHUNKS


def test_names_of_kinds() -> None:
    kinds = Kinds([*(f"{k}.codes" for k in range(12)), "codes", "0.residuals", "embs_0", "embs_1", "ivf"])

    assert kinds.labels(["ivf", "3.codes", "5.codes", "0.residuals"]) == [
        "ivf",
        "codes (2 of 12 chunks)",
        "0.residuals",
    ]
    assert kinds.labels(["embs_0", "embs_1", "codes", "7.codes"]) == ["embs (2 chunks)", "codes", "7.codes"]
    assert kinds.label(["3.codes", "4.codes"], numbered=True) == "codes (chunks 3-4)"
    assert Kinds(["0.codes", "1.codes"], apart=True).labels(["0.codes", "1.codes"]) == ["0.codes", "1.codes"]
    assert Kinds([]).chunks(["10.codes", "2.codes", "3.codes", "4.codes"]) == "chunks 2-4, 10"


# ---- ladders


def test_a_ladder_collapses_chunks_of_the_same_classes() -> None:
    same = {f"{k}.codes": "1" for k in range(CHUNKS)}
    other = {f"{k}.codes": "2" for k in range(CHUNKS)}
    shown = ladder_text(ladder([("v1", same), ("v2", other), ("v3", same)]), Screen(60))

    assert re.search(r"^codes \(16 chunks\) +2 +v1 v3 \| v2$", shown, re.MULTILINE)
    assert "v1 -> v2  16       codes (16 chunks)" in shown
    assert shown.count("codes (16 chunks) changed back at v3: as in v1 again.") == 1
    assert "0.codes" not in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_a_ladder_shows_the_chunks_whose_classes_differ(width: int) -> None:
    same = {f"{k}.codes": "1" for k in range(CHUNKS)}
    found = ladder([("v1", same), ("v2", {**same, "3.codes": "2", "5.codes": "2", "6.codes": "2"}), ("v3", same)])
    shown = ladder_text(found, Screen(width))

    assert too_long(shown, width) == []
    assert "codes (3 of 16 chunks)" in shown
    assert re.search(r"^codes \(chunks 3, 5-6\) +2 +v1 v3 \| v2$", shown, re.MULTILINE)
    assert re.search(r"^codes \(chunks 0-2, 4, 7-15\) +1 +v1 v2 v3$", shown, re.MULTILINE)
    apart = ladder_text(found, Screen(width), apart=True)
    assert re.search(r"^3\.codes +2 +v1 v3 \| v2$", apart, re.MULTILINE)


def test_the_command_ladder_has_the_option(indexes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "codes (4 of 16 chunks)" in run(capsys, "ladder", *indexes)[1]
    assert "2.codes, 3.codes, 7.codes, 11.codes" in run(capsys, "ladder", *indexes, "--chunks")[1]
    assert run(capsys, "ladder", *indexes, "--json")[1] == run(capsys, "ladder", *indexes, "--json", "--chunks")[1]


# ---- the screen


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


VARIABLES = {
    "NO_COLOR": (None, "", "1"),
    "FORCE_COLOR": (None, "", "1"),
    "TTY_COMPATIBLE": (None, "0", "1", "x"),
    "TERM": (None, "dumb", "xterm-256color"),
    "COLUMNS": (None, "77", "wide"),
}


@pytest.mark.parametrize("terminal", [False, True])
def test_a_screen_is_what_rich_says_it_is(terminal: bool) -> None:
    for values in itertools.product(*VARIABLES.values()):
        environ = {name: value for name, value in zip(VARIABLES, values, strict=True) if value is not None}
        rich = Console(file=Stream(terminal), _environ=environ)
        screen = Screen.of(Stream(terminal), environ)

        assert screen.styles == (rich.color_system is not None), environ
        assert screen.colours == (screen.styles and not rich.no_color), environ
        # Where rich would take the width of the terminal from which a command in a pipe was started, there is none.
        assert screen.width == (77 if environ.get("COLUMNS") == "77" else 80 if terminal else None), environ


def test_a_terminal_is_as_wide_as_it_is() -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 93, 0, 0))
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as stream:
        assert Screen.of(stream, {"TERM": "xterm"}) == Screen(93, styles=True, colours=True)
        assert Screen.of(stream, {"TERM": "xterm", "NO_COLOR": "1"}) == Screen(93, styles=True)
        assert Screen.of(stream, {"TERM": "xterm", "COLUMNS": "61"}).width == 61


def test_colours_are_beside_the_text_not_in_it(comparison: Comparison) -> None:
    plain, styled = (text(comparison, Screen(80, styles=on, colours=on)) for on in (False, True))

    assert "\x1b[31mcodes (16 chunks)" in styled
    assert "\x1b[1martifact" in styled
    assert re.sub(r"\x1b\[\d+m", "", styled) == plain
    assert "\x1b[31m" not in text(comparison, Screen(80, styles=True))


def test_colours_do_not_import_rich(indexes: tuple[Path, Path]) -> None:
    """A comparison starts as fast on a terminal as it does elsewhere; a pipe gets colours where it asks for them."""
    program = (
        "import sys; from harness.cli import main\n"
        "try:\n main(['compare', *sys.argv[1:]])\n"
        "finally:\n print('rich' in sys.modules)"
    )
    command = [sys.executable, "-c", program, *map(str, indexes)]
    environ = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "70"}
    environ.pop("NO_COLOR", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)

    assert done.returncode == 2, done.stderr  # one file cannot be read
    assert "\x1b[31m" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    assert too_long(re.sub(r"\x1b\[\d+m", "", done.stdout), 70) == []
