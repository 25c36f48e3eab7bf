"""The page by its markup: what it says first, what it never says, and that a table's text stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import UsageError
from harness.report.page.folder import OPTIONAL, Folder, read_folders
from harness.report.page.ladder import CHANGED, EQUAL, NOISE, UNKNOWN, ladder_of, state_of, state_of_step, worst
from harness.report.page.page import LIMIT, page
from harness.report.page.steps import blamed, exchanges, origins, repeats
from harness.report.page.verdict import StepLine, arrow, step_lines, verdict
from tests.support.command import run
from tests.support.tables import CHANGED_STEP, EQUAL_STEP, GAP_STEP, HOSTILE, write_tables_of

ROOT = Path(__file__).parents[2]


class Reader(HTMLParser):
    """What a page refers to, its ids, its elements that no page of ours has, and whether elements are closed."""

    VOID = frozenset(("meta", "link", "br", "input", "img"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def tables(tmp_path):
    return write_tables_of(tmp_path / "tables", hostile=HOSTILE)


def made(*folders: Path) -> str:
    return page(read_folders(folders), folders[0] / "report.html")


def test_the_first_sentence_says_what_changes_and_whether_anybody_must_act(tables):
    folders = read_folders([tables])

    said = verdict(folders, step_lines(folders))

    assert said == (
        "1 of 2 steps from 2.7.0 to 2.8.0 (1 more could not be compared) changes the index on CPU Test 6/1; "
        "none of the 1 that were searched asks for a new index."
    )
    text = made(tables)
    assert 0 < text.index(said) < text.index("<main")


def test_versions_of_another_package_are_a_row_of_their_own(tables):
    steps = [("2.7.1", "2.8.0"), ("2.8.0", "2.9.0"), ("numpy-1.9.0", "numpy-1.10.0"), ("numpy-1.10.0", "numpy-2.0.0")]
    lines = [StepLine(step, ("equal",), {EQUAL: ["a device"]}, (), (), {}) for step in steps]

    said = verdict(read_folders([tables]), lines)

    assert said.startswith(
        "None of the 4 steps from 2.7.1 to 2.9.0 and from numpy-1.9.0 to numpy-2.0.0 changes the index"
    )


@pytest.mark.parametrize("answer", ["re-index", "investigate"])
def test_a_step_that_asks_for_something_is_named_in_the_first_sentence(tables, answer):
    table = pq.read_table(tables / "consecutive.parquet")
    column = pa.array(["unchanged", answer, None])
    pq.write_table(table.set_column(table.schema.get_field_index("verdict"), "verdict", column).replace_schema_metadata(
        table.schema.metadata), tables / "consecutive.parquet")  # fmt: skip
    folders = read_folders([tables])

    assert f"2.7.1 → 2.8.0 ({answer})" in verdict(folders, step_lines(folders))


def test_what_was_not_searched_is_not_said_to_be_kept(tables):
    table = pq.read_table(tables / "consecutive.parquet")
    column = pa.array([None, None, None], pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("verdict"), "verdict", column).replace_schema_metadata(
        table.schema.metadata), tables / "consecutive.parquet")  # fmt: skip
    folders = read_folders([tables])

    assert "whether to index again is not known, because nobody searched" in verdict(folders, step_lines(folders))


def test_nothing_that_was_not_compared_is_shown_as_equal(tables):
    [folder] = read_folders([tables])
    ladder = ladder_of(folder)

    assert folder.steps == [EQUAL_STEP, CHANGED_STEP, GAP_STEP]
    states = {strip.artifact: strip.states for strip in ladder.strips}
    assert states == {
        "embs_0": (EQUAL, CHANGED, UNKNOWN),
        "centroids": (EQUAL, CHANGED, UNKNOWN),
        HOSTILE: (EQUAL, CHANGED, UNKNOWN),
    }
    assert [state_of_step(row) for row in folder.rows("consecutive")] == [EQUAL, CHANGED, UNKNOWN]
    assert state_of(None) == UNKNOWN
    assert worst([EQUAL, UNKNOWN]) == UNKNOWN
    assert worst([UNKNOWN, CHANGED, EQUAL]) == CHANGED


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"bit_equal": True, "status": "bit_equal", "noise": None}, EQUAL),
        ({"bit_equal": None, "status": "missing_a", "noise": None}, UNKNOWN),
        ({"bit_equal": False, "status": "unreadable", "noise": None}, UNKNOWN),
        ({"bit_equal": False, "status": "missing_b", "noise": None}, CHANGED),
        ({"bit_equal": False, "status": "shape_mismatch", "noise": None}, CHANGED),
        ({"bit_equal": False, "status": "value_equal", "noise": None}, "close"),
        ({"bit_equal": False, "status": "different", "noise": True}, NOISE),
    ],
)
def test_a_row_has_the_state_that_its_status_allows(row, state):
    assert state_of(row) == state


def test_only_what_exchanges_the_result_both_ways_is_blamed_and_only_trusted_calls_are_origins(tables):
    [folder] = read_folders([tables])

    [matrix] = exchanges(folder, CHANGED_STEP).values()

    assert [(one.what, one.in_b, one.in_a) for one in matrix] == [
        ("torch", "as A", "as B"), ("triton", "as B", "as A"),
    ]  # fmt: skip
    assert blamed(folder, CHANGED_STEP) == ["torch"]
    assert [(one.step, one.name, one.calls, one.of) for one in origins(folder, CHANGED_STEP)] == [
        ("encode", "aten.norm.default", 1, 2)
    ]
    assert repeats(folder) == [("the same bit for bit in 3 artifacts", ["2.8.0"])]


def found_of(**rows: dict[str, object]) -> Folder:
    """A folder whose only step, A to B, has one row in each of these tables."""
    return Folder(Path(), {"job": "index"}, {name: [{"a": "A", "b": "B", **row}] for name, row in rows.items()})


@pytest.mark.parametrize(("trusted", "said"), [(True, "What is left is the shuffle"), (False, "no call is named")])
def test_a_step_that_was_replayed_and_shows_no_call_is_named_with_the_reason(trusted, said):
    located = {"step": "split sample", "artifacts": "sample,sample_heldout", "status": "equal", "trusted": trusted}
    located |= {"kind": "step", "name": "halve sample"}
    folder = found_of(consecutive={"first_changed": "sample"}, locations=located)

    [origin] = origins(folder, ("A", "B"))

    assert origin.title == "split sample (no call of it)"
    assert said in origin.without
    assert not origins(replace(folder, tables={**folder.tables, "locations": []}), ("A", "B"))
    assert not origins(found_of(consecutive={"first_changed": "embs_0"}, locations=located), ("A", "B"))


def test_of_many_packages_that_are_blamed_together_the_one_that_is_none_of_them_stands_first():
    many = [f"nvidia-{n}" for n in range(4)]

    assert blamed(found_of(blame={"blamed": [*many, "torch"]}), ("A", "B")) == ["torch", "4 packages nvidia-*"]
    assert blamed(found_of(blame={"blamed": ["nvidia-0", "torch"]}), ("A", "B")) == ["nvidia-0", "torch"]
    assert blamed(found_of(blame={"blamed": None}), ("A", "B")) == []


def test_the_page_is_closed_markup_that_refers_to_nothing_elsewhere(tables):
    (tables / "locate-2.7.1-2.8.0.txt").write_text("found")
    script = tables / "repro" / "2.7.1-2.8.0-cpu" / "norm.py"
    script.parent.mkdir(parents=True)
    script.write_text("print()")

    read = Reader(made(tables))

    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    assert {"locate-2.7.1-2.8.0.txt", "repro/2.7.1-2.8.0-cpu/norm.py"} <= set(read.references)
    inside = [one[1:] for one in read.references if one.startswith("#")]
    assert inside
    assert set(inside) <= set(read.ids)
    assert not [one for one in read.references if re.match(r"[a-z]+:|//", one)]
    assert "img" not in read.tags
    assert read.tags.count("script") == 1


def test_hostile_text_of_every_table_is_text(tables):
    text = made(tables)

    assert "<script>window" not in text
    assert 'onerror="' not in text
    assert "49" not in re.findall(r"&lt;img.{,90}", text)[0]
    # In table cells, in a chart, in an attribute, in the verdict's reason, in a gap.
    assert text.count("&lt;script&gt;window.hacked = 1&lt;/script&gt;") > 8


def test_every_part_of_a_changed_step_is_there(tables):
    text = made(tables)
    section = text[text.index('id="2.7.1--2.8.0"') :]

    for part in (
        "aten.norm.default", "result of 2.7.1", "Packages that differ: 1", "Batches of one size", "nDCG@10",
        "[-0.0010, +0.0010]", "B in the index of A", "a repeat changes none of it",
    ):  # fmt: skip
        assert part in section, part
    assert section.count("<svg") == 2


def test_what_a_folder_lacks_is_said_in_a_line(tables):
    for name in OPTIONAL:
        (tables / f"{name}.parquet").unlink(missing_ok=True)

    text = made(tables)

    missing = text[text.index('id="missing"') :]
    for what, command in OPTIONAL.values():
        assert what in missing
        assert command in missing
    assert "nothing is known of single artifacts" in text


def test_several_folders_stand_side_by_side_and_a_split_device_is_told(tables, tmp_path):
    other = write_tables_of(tmp_path / "gpu", device="cuda NVIDIA Test 80GB 9.0")
    (other / "comparisons.parquet").unlink()
    again = write_tables_of(tmp_path / "gpu2", device="cuda NVIDIA Test 80GB 9.0")
    table = pq.read_table(again / "consecutive.parquet")
    pq.write_table(table.slice(0, 1).replace_schema_metadata(table.schema.metadata), again / "consecutive.parquet")

    folders = read_folders([tables, other, again])
    lines = {line.step: line for line in step_lines(folders)}

    assert len({folder.title for folder in folders}) == 3
    assert [folder.title.rpartition(", ")[2] for folder in folders[1:]] == ["2.7.0 to 2.9.0", "2.7.0 to 2.7.1"]
    assert lines[EQUAL_STEP].states == (EQUAL, EQUAL, EQUAL)
    assert lines[CHANGED_STEP].states == (CHANGED, CHANGED, None)
    assert lines[CHANGED_STEP].where == {CHANGED: ["CPU Test 6/1", "NVIDIA Test 80GB"]}
    assert "NVIDIA Test 80GB" in made(tables, other, again)


def test_what_is_in_no_table_but_was_printed_is_linked(tables):
    for name, command in (("blame", "blame"), ("locations", "locate")):
        (tables / f"{name}.parquet").unlink()
        (tables / f"{command}-{'-'.join(CHANGED_STEP)}.txt").write_text("Said.")

    text = made(tables)

    assert text.count("in words, below") == 2
    assert text.count("the command printed") == 2
    assert "no table says" not in text


def test_a_step_between_two_versions_of_a_package_names_it_once():
    assert arrow(("2.7.1", "2.8.0")) == "2.7.1 → 2.8.0"
    assert arrow(("transformers-4.9.0", "transformers-4.10.0")) == "transformers-4.9.0 → 4.10.0"
    assert arrow(("prod-a", "prod-b")) == "prod-a → prod-b"
    assert arrow(("2.8.0", "transformers-4.10.0")) == "2.8.0 → transformers-4.10.0"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "consecutive.parquet").unlink(), "holds no tables"),
        (lambda folder: (folder / "blame.parquet").write_bytes(b"PAR1"), "blame.parquet cannot be read as a table"),
        (lambda folder: pq.write_table(pa.table({"a": ["1"]}), folder / "cells.parquet"), "is not a table of this"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tables, damage, sentence):
    damage(tables)

    with pytest.raises(UsageError, match=sentence):
        read_folders([tables])


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("a", ["../../x", "2.7.1", "2.8.0"], "column `a` or `b` holds no version"),
        ("total", ["eight", None, None], "column `total` holds 'eight', no int"),
    ],
)
def test_a_column_of_something_else_is_a_sentence(tables, column, values, sentence):
    path = tables / "consecutive.parquet"
    table = pq.read_table(path)
    changed = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)

    with pytest.raises(UsageError, match=sentence):
        read_folders([tables])


def test_the_commands_write_a_page_and_charts(tables, tmp_path, capsys):
    report, out, _ = run(capsys, "report", tables, "--output", tmp_path / "page.html")
    plot, _, lacking = run(capsys, "plot", tables, "--output", tmp_path / "plots")

    assert (report, plot) == (0, 0)
    assert out.strip() == str(tmp_path / "page.html")
    assert not lacking
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page(read_folders([tables]), tmp_path / "page.html")
    charts = {path.name for path in (tmp_path / "plots").iterdir()}
    assert charts == {
        f"{name}.{kind}" for name in ("ladder", "spread-2.7.1-2.8.0", "rankings") for kind in ("svg", "png")
    }
    for path in (tmp_path / "plots").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text
        assert "var(" not in text
        assert text.startswith("<svg")
    for path in (tmp_path / "plots").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_none_ends_with_a_sentence(tmp_path, capsys):
    code, _, err = run(capsys, "report", tmp_path / "nowhere")

    assert code == 2
    assert "no folder of tables" in err


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("report.html")), ids=lambda path: path.parent.name)
def test_a_published_page_is_that_of_the_tables_below_it(path):
    """All that are not on a page of their own, which lies deeper."""
    held = [one.parent for one in path.parent.rglob("consecutive.parquet")]
    deeper = [one.parent for one in path.parent.rglob("*/report.html")]
    folders = read_folders(sorted(one for one in held if not set(deeper) & set(one.parents)))

    text = path.read_text(encoding="utf-8")

    assert len(text.encode()) < LIMIT
    links = [folder.path.relative_to(path.parent).as_posix() for folder in folders]
    assert links
    assert not [link for link in links if f'href="{link}"' not in text]
    # The tables decide the sentence; what matplotlib writes may differ from one release of it to the next.
    assert verdict(folders, step_lines(folders)) in text
