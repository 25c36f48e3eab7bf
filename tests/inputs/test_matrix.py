"""Every mistake in `matrix.yaml` is one sentence with the file, the line and the mend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.commands.schema import schema_text
from harness.errors import UsageError
from harness.home import default_matrix, package_folder, resolve_home
from harness.inputs.matrix_file import find_matrix, load_matrix, own_matrix, parse_matrix
from harness.words import version_key

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "matrix.yaml").read_text(encoding="utf-8")

VERSIONS = [
    "1.13.1",
    "2.0.0",
    "2.0.1",
    "2.1.0",
    "2.1.1",
    "2.1.2",
    "2.2.0",
    "2.2.1",
    "2.2.2",
    "2.3.0",
    "2.3.1",
    "2.4.0",
    "2.4.1",
    "2.5.0",
    "2.5.1",
    "2.6.0",
    "2.7.0",
    "2.7.1",
    "2.8.0",
    "2.9.0",
    "2.9.1",
    "2.10.0",
    "2.11.0",
    "2.12.0",
    "2.12.1",
    "2.13.0",
    "2.14.0",
    "2.14.1",
    "2.15.0",
]


def edited(old: str, new: str) -> str:
    """The committed matrix with one edit; the place of the edit must be there, and only once."""
    assert TEXT.count(old) == 1, f"{old!r} is {TEXT.count(old)} times in matrix.yaml"
    return TEXT.replace(old, new)


def complaint(text: str) -> str:
    """The sentence about a matrix."""
    with pytest.raises(UsageError) as caught:
        parse_matrix(text, "matrix.yaml")
    return str(caught.value)


def line_of(text: str, part: str) -> int:
    """Number of the only line with `part`."""
    found = [number for number, line in enumerate(text.splitlines(), 1) if part in line]
    assert len(found) == 1
    return found[0]


# old text, new text, a part of the line that the sentence must name, what it must say
MISTAKES = {
    "unknown key": ("schema: 1\n", "schema: 1\nverzions: []\n", "verzions", "verzions: this key is not known here"),
    "unknown nested key": ("    nbits: 2", "    nbist: 2", "nbist", "jobs.index.nbist: this key is not known here"),
    "misspelt required key": ("    split: test", "    splt: test", "splt", "splt: this key is not known here"),
    "missing key": ('python: "3.11"\n', "", "schema: 1", "python: this key is required: add it"),
    "missing nested key": ("    config: Cond", "    #", "  dapr-cond", "config: this key is required: add it"),
    "unknown schema": ("schema: 1\n", "schema: 2\n", "schema: 2", "should be 1, found 2"),
    "duplicate version": ('- "2.5.1"', '- "2.5.0" #', '"2.5.0" #', "2.5.0 is listed twice: remove one"),
    "version out of order": ('- "2.5.1"', '- "2.4.2" #', '"2.4.2"', "2.4.2 comes after 2.5.0: list them in order"),
    "version without quotes": ('- "2.5.1"', "- 2.5 #", "- 2.5 #", "2.5 is not text: put it in quotes"),
    "not a release": ('- "2.5.1"', '- "2.5.1-rc1"', "rc1", "'2.5.1-rc1' is not a PyTorch release such as 2.5.0"),
    "unknown version of an oddity": ('["1.13.1", "2.0.0"', '["1.13.0", "2.0.0"', '"1.13.0"', "1.13.0 is not in `vers"),
    "duplicate version of an oddity": ('["1.13.1", "2.0.0"', '["2.0.1", "2.0.0"', '["2.0.1"', "2.0.1 is listed twice"),
    "unknown quickstart version": (
        '["2.7.1", "2.8.0"]',
        '["2.7.1", "2.99.0"]',
        '"2.99.0"',
        "2.99.0 is not in `versions`",
    ),
    "duplicate quickstart version": ('["2.7.1", "2.8.0"]', '["2.8.0", "2.8.0"]', '["2.8.0"', "2.8.0 is listed twice"),
    "one quickstart version": ('["2.7.1", "2.8.0"]', '["2.7.1"]', '["2.7.1"]', "it needs at least 2 entries and has 1"),
    "not pinned": ("numpy==1.26.4", "numpy>=1.26", "numpy>=1", "'numpy>=1.26' is not pinned: write NAME==VERSION"),
    "not pinned at all": ("numpy==1.26.4", "numpy", "- numpy", "'numpy' is not pinned: write NAME==VERSION"),
    "package twice": (
        "numpy==1.26.4",
        "NumPy==1.26.4\n    - numpy==2.0.0",
        "numpy==2.0.0",
        "numpy is already required",
    ),
    "package of a flavour twice": ("[faiss-cpu", "[numpy==1.26.4, faiss-cpu", "cpu: [n", "numpy is already required"),
    "torch is shared": ("numpy==1.26.4", "torch==2.5.0", "torch==2.5.0", "torch is already required"),
    "replaces nothing": (
        "{faiss-gpu-cu12==1.8.0.2",
        "{faiss-gpu-cu12==1.8.0",
        "replace: {faiss",
        "is not in `requirements`",
    ),
    "unknown flavour": ("    cpu: [", "    tpu: [", "tpu: [", "should be 'cpu' or 'gpu', found 'tpu'"),
    "oddity without reason": ("    reason: These", "    # ", 'versions: ["1.13.1"', "reason: this key is required"),
    "bad architecture": ("[sm_37, ", "[sm37, ", "sm37", "should match pattern"),
    "unknown source": (
        "source: hub\n    repo: UKP",
        "source: hug\n    repo: UKP",
        "source: hug",
        "source: 'hug' is not one of hub, local, embedded, scaled",
    ),
    "missing source": (
        "    source: hub\n    repo: UKP",
        "    repo: UKP",
        "  dapr-c",
        "collections.dapr-conditionalqa.source: this key is required: add it",
    ),
    "not a number": ("expected_passages: 69199", "expected_passages: many", "s: many", "'many' is not a whole number"),
    "not true or false": ("_extensions: false", "_extensions: maybe", "maybe", "'maybe' is neither true nor false"),
    "not a time": (
        "newer: 2025-09-14T00:00:00Z",
        "newer: soon",
        "soon",
        "'soon' is not a time: write one such as 2025",
    ),
    "too short a reason": (
        "reason: These wheels",
        "reason: none #",
        "none #",
        "it should have at least 10 characters, found",
    ),
    "nothing where a list is": ("may_differ: [f", "may_differ: #", "may_differ: #", "an empty value is not a list"),
    "out of range": ("    threads: 2", "    threads: 0", "threads: 0", "greater than or equal to 1, found 0"),
    "not a choice": ("nbits: 2", "nbits: 3", "nbits: 3", "should be 1, 2, 4 or 8, found 3"),
    "variable that is no string": (
        "environment: {}",
        "environment: {A: 1}",
        "{A: 1}",
        "1 is not text: put it in quotes",
    ),
    "profile without other": (
        "    other: {atol: 1.0e-8,",
        "    float32: {atol: 1.0e-8,",
        "  default:",
        "no rule `other`",
    ),
    "profile of an unknown dtype": ("    bfloat16: {", "    bfloat17: {", "bfloat17", "not a dtype here: use one of"),
    "required profile missing": ("  bnb:\n", "  bnc:\n", "tolerances:", "the profile 'bnb' is missing"),
    "negative tolerance": ("{atol: 1.0e-8", "{atol: -1.0", "-1.0", "greater than or equal to 0"),
    "infinite tolerance": ("{atol: 1.0e-8", "{atol: .inf", ".inf", "finite number"),
    "unknown collection": (
        "collection: dapr-cond",
        "collection: dapr-kond",
        "kond",
        "no collection is called 'dapr-kond",
    ),
    "unknown checkpoint": ("checkpoint: answerai-col", "checkpoint: answerai-kol", "kol", "no checkpoint is called"),
    "scaled from itself": (
        "  embedded:\n    source: embedded\n    passages: 1000",
        "  embedded:\n    source: scaled\n    base: embedded\n    passages: 1000",
        "base: embedded",
        "collections.embedded.base: is itself a scaled collection",
    ),
    "duplicate key": (
        'python: "3.11"\n',
        'python: "3.11"\npython: "3.12"\n',
        '"3.12"',
        "'python' is given twice: remove",
    ),
    "axis that is torch": (
        "  transformers:\n",
        "  torch: # ours\n",
        "# ours",
        "axes.torch: torch is what `versions` varies",
    ),
    "axis of a package that nobody pins": (
        "  transformers:\n",
        "  transformer:\n",
        "  transformer:",
        "axes.transformer: `requirements` pins no transformer, and an axis exchanges such a pin: name one of ",
    ),
    "axis beside a torch that is not there": (
        '    torch: "2.8.0"',
        '    torch: "2.8.9"',
        '"2.8.9"',
        "axes.transformers.torch: 2.8.9 is not in `versions`: add it there, or name one of those",
    ),
    "axis out of order": ('- "4.29.2"', '- "4.27.0"', '"4.27.0"', "4.27.0 comes after 4.28.1: list them in order"),
    "axis with a version twice": ('- "4.29.2"', '- "4.28.1" #', '"4.28.1" #', "4.28.1 is listed twice: remove one"),
    "axis with what is no version": ('- "4.29.2"', '- "newest"', '"newest"', "'newest' is not a version of a package"),
    "axis without versions": ('    torch: "2.8.0"\n', '    torsh: "2.8.0"\n', "torsh", "torsh: this key is not known"),
    "not YAML": ("requirements:\n", "requirements: ]\n", "requirements: ]", "not valid YAML"),
    "Python in YAML": ('python: "3.11"', "python: !!python/name:os.system x", "os.system", "not valid YAML"),
    "key that is a list": ("schema: 1\n", "schema: 1\n? [a]\n: b\n", "? [a]", "not valid YAML: found unhashable key"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_with_file_line_and_mend(name):
    old, new, place, expected = MISTAKES[name]
    text = edited(old, new)

    said = complaint(text)

    assert said.startswith(f"matrix.yaml, line {line_of(text, place)}: ")
    assert expected in said
    assert said.endswith((".", " more after this)"))
    assert "Traceback" not in said
    assert "pydantic" not in said


@pytest.mark.parametrize("text", ["", "[]", "just words", "- 1\n- 2", "\x00", "a: &x [*x]", "a: [" * 2000])
def test_a_file_of_another_kind_is_refused_with_a_sentence(text):
    assert complaint(text).startswith("matrix.yaml, line ")


def test_the_number_of_further_mistakes_is_said():
    said = complaint(edited("    nbits: 2", "    nbits: 3").replace("threads: 2", "threads: 0"))

    assert "(1 more after this)" in said


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_matrix(tmp_path / "matrix.yaml")


def test_where_there_is_none_it_is_the_one_that_travels_with_the_package(tmp_path):
    found = find_matrix(tmp_path)

    assert found == default_matrix()
    assert load_matrix(found).versions


def test_the_package_s_own_matrix_is_not_written_to_and_has_its_home_here(tmp_path, monkeypatch):
    packed = package_folder() / "default" / "matrix.yaml"
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match="`harness init`"):
        own_matrix(packed)
    assert own_matrix(tmp_path / "matrix.yaml") == tmp_path / "matrix.yaml"
    assert resolve_home(None, packed).root == tmp_path / ".harness"
    assert resolve_home(None, tmp_path / "x" / "matrix.yaml").root == tmp_path / "x" / ".harness"


def test_a_file_that_is_not_utf8_is_a_sentence(tmp_path):
    (tmp_path / "matrix.yaml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match="UTF-8"):
        load_matrix(tmp_path / "matrix.yaml")


def test_the_matrix_is_found_from_a_folder_below_it():
    assert find_matrix(ROOT / "harness" / "worker") == ROOT / "matrix.yaml"


def test_the_committed_matrix_has_the_versions_in_order_of_release():
    matrix = load_matrix(ROOT / "matrix.yaml")

    assert matrix.versions == VERSIONS
    assert sorted(matrix.versions, key=version_key) == VERSIONS


def test_a_version_that_the_matrix_lacks_is_refused_with_those_it_has():
    matrix = load_matrix(ROOT / "matrix.yaml")

    assert matrix.require("2.5.0") == "2.5.0"
    with pytest.raises(
        UsageError, match=re.escape("'2.99.0' is not a version in matrix.yaml: choose from 1.13.1, 2.0.0")
    ):
        matrix.require("2.99.0")


def test_adding_a_version_is_one_line():
    matrix = parse_matrix(edited('  - "2.15.0"\n', '  - "2.15.0"\n  - "2.100.0"\n'))

    assert matrix.versions == [*VERSIONS, "2.100.0"]
    assert matrix.requirements_of("2.100.0", "cpu")[:-1] == matrix.requirements_of("2.15.0", "cpu")[:-1]


@pytest.mark.parametrize("version", VERSIONS)
def test_requirements_differ_between_versions_by_torch_and_by_declared_oddities_only(version):
    matrix = load_matrix(ROOT / "matrix.yaml")
    shared = [*matrix.requirements.shared, *matrix.requirements.flavours["gpu"]]
    replaced = {old: new for oddity in matrix.oddities_of(version, "gpu") for old, new in oddity.replace.items()}

    assert matrix.requirements_of(version, "gpu") == [*(replaced.get(pin, pin) for pin in shared), f"torch=={version}"]


def test_an_oddity_applies_to_its_versions_and_flavour_only():
    matrix = load_matrix(ROOT / "matrix.yaml")

    old, new = matrix.requirements_of("2.0.1", "gpu"), matrix.requirements_of("2.1.0", "gpu")

    assert "faiss-gpu-cu11==1.8.0.2" in old
    assert "faiss-gpu-cu12==1.8.0.2" not in old
    assert "faiss-gpu-cu12==1.8.0.2" in new
    assert matrix.oddities_of("2.0.1", "cpu") == []
    assert "faiss-cpu==1.8.0.post1" in matrix.requirements_of("2.0.1", "cpu")


def test_an_oddity_without_a_flavour_applies_to_both():
    matrix = parse_matrix(
        edited(
            "\ncollections:\n",
            '\n  - versions: ["2.4.1"]\n    environment: {X: "1"}\n    reason: Made up for a test.\ncollections:\n',
        )
    )

    for flavour in ("cpu", "gpu"):
        assert [o.environment for o in matrix.oddities_of("2.4.1", flavour)] == [{"X": "1"}]
        assert not any(o.environment for o in matrix.oddities_of("2.5.0", flavour))


def test_the_allow_list_uses_patterns():
    matrix = parse_matrix(edited("may_differ: [faiss-gpu-cu11,", "may_differ: [nvidia-*,"))

    assert matrix.may_differ("nvidia-cublas-cu12")
    assert matrix.may_differ("faiss-gpu-cu12")
    assert not matrix.may_differ("faiss-gpu-cu11")
    assert not matrix.may_differ("numpy")


def test_the_committed_json_schema_is_current():
    """Run `harness schema > docs/matrix.schema.json` after a change of the model."""
    assert (ROOT / "docs" / "matrix.schema.json").read_text(encoding="utf-8") == schema_text()


def test_releases_sort_by_number():
    assert sorted(["2.10.0", "2.9.1", "1.13.1", "2.9.0"], key=version_key) == ["1.13.1", "2.9.0", "2.9.1", "2.10.0"]
