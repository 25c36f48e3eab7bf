"""A version may come from another index, in another Python or in another build, and the matrix says so as data."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.inputs.matrix import Listed, Matrix
from harness.inputs.matrix_file import parse_matrix
from harness.words import version_key
from tests.support.small_matrix import TEXT

DEV = "2.9.0.dev20250801+cpu"
INDEXES = "indexes: {nightly: https://example.org/whl/nightly/cpu}\n"
NIGHTLY = f"  - {{version: {DEV}, index: nightly}}\n"
BUILD = (
    '  - versions: ["2.7.1"]\n    flavour: gpu\n'
    "    build: {index: nightly, version: 2.7.1+cu118, architectures: [sm_90]}\n    reason: Its own wheel has none.\n"
)


def grown(versions: str = NIGHTLY, oddities: str = "", indexes: str = INDEXES) -> str:
    text = TEXT.replace('  - "2.8.0"\n', f'  - "2.8.0"\n{versions}', 1).replace(
        "\n# The versions.", f"\n{indexes}# The"
    )
    return text.replace("oddities: []\n", f"oddities:\n{oddities}" if oddities else "oddities: []\n")


def matrix(**parts: str) -> Matrix:
    return parse_matrix(grown(**parts))


def test_a_version_from_another_index_is_a_version_like_any_other():
    found = matrix()

    assert found.versions == ["2.7.1", "2.8.0", DEV]
    assert found.require(DEV) == DEV
    assert [found.index_of(version) for version in found.versions] == [None, None, "nightly"]
    assert found.requirements_of(DEV, "cpu")[-1] == f"torch=={DEV}"


def test_versions_are_in_the_order_of_pep_440():
    ordered = ["2.7.1", "2.8.0.dev20250101+cpu", "2.8.0rc1", "2.8.0", "2.8.0+cu118", "2.8.0.post1", DEV, "2.10.0"]

    assert sorted({*ordered}, key=version_key) == ordered
    with pytest.raises(UsageError, match=r"line 13: versions\.2: 2\.8\.0rc1 comes after 2\.8\.0"):
        matrix(versions='  - "2.8.0rc1"\n')


def test_more_versions_are_put_in_order_and_what_is_there_stays():
    found = matrix().with_versions(
        [Listed(version="2.7.1", index="mine"), Listed(version="2.7.2", index="mine")],
        {"mine": "http://x", "nightly": "y"},
    )

    assert found.versions == ["2.7.1", "2.7.2", "2.8.0", DEV]
    assert [found.index_of(version) for version in found.versions] == [None, "mine", None, "nightly"]
    assert found.indexes == {"mine": "http://x", "nightly": "https://example.org/whl/nightly/cpu"}


def test_an_oddity_may_hold_from_a_version_on():
    found = matrix(
        versions='  - "2.9.0"\n  - "2.10.0"\n',
        oddities='  - {since: "2.9.0", replace: {stack==1.0: stack==2.0}, reason: A newer stack is needed.}\n',
    )

    assert ["stack==2.0" in found.requirements_of(version, "cpu") for version in found.versions] == [
        False, False, True, True,
    ]  # fmt: skip
    assert "stack==2.0" in found.with_versions([Listed(version="2.11.0")], {}).requirements_of("2.11.0", "gpu")


def test_a_version_may_name_another_python():
    found = matrix(oddities='  - {versions: ["2.8.0"], python: "3.12", reason: No wheel for 3.11.}\n')

    assert [found.python_of(version, "cpu") for version in found.versions] == ["3.11", "3.12", "3.11"]


def test_another_build_is_one_of_its_version_for_gpus():
    found = matrix(oddities=BUILD)

    (build,) = found.builds_of("2.7.1")
    assert found.requirements_of("2.7.1", "gpu", build)[-1] == "torch==2.7.1+cu118"
    assert found.requirements_of("2.7.1", "gpu")[-1] == "torch==2.7.1"
    assert found.builds_of("2.8.0") == []


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"indexes": ""},
            "versions.2: no index is called 'nightly' (there is none): add `nightly: URL` under `indexes`",
        ),
        ({"indexes": INDEXES.replace("nightly", "other", 1)}, "no index is called 'nightly' (have other)"),
        ({"indexes": INDEXES.replace("https", "ftp")}, "indexes.nightly: "),
        ({"versions": f"  - {{version: {DEV}, idx: nightly}}\n"}, "this key is not known here"),
        ({"versions": "  - {index: nightly}\n"}, "versions.2.version: this key is required: add it"),
        ({"versions": "  - 2.9\n"}, "versions.2: 2.9 is not text: put it in quotes."),
        ({"versions": '  - "2.9.0.dev1+CPU"\n'}, "'2.9.0.dev1+CPU' is not a PyTorch release such as 2.5.0, or a build"),
        ({"versions": NIGHTLY * 2}, f"{DEV} is listed twice: remove one"),
        ({"oddities": '  - {python: "3.12", reason: Nothing named.}\n'}, "oddities.0: give it `versions` or `since`"),
        (
            {"oddities": '  - {versions: ["2.8.0"], since: "2.8.0", reason: Both are named.}\n'},
            "give it `versions` or `since`, and one of them only",
        ),
        ({"oddities": '  - {versions: ["2.8.0"], python: 3.12, reason: No wheel for 3.11.}\n'}, "3.12 is not text"),
        ({"oddities": BUILD.replace("flavour: gpu", "flavour: cpu")}, "add `flavour: gpu` to the oddity"),
        ({"oddities": BUILD.replace("2.7.1+cu118", "2.8.0+cu118")}, "2.8.0+cu118 is no other build of 2.7.1"),
        ({"oddities": BUILD.replace("2.7.1+cu118", "2.7.1")}, "2.7.1 is no other build of 2.7.1"),
        ({"oddities": BUILD.replace("index: nightly", "index: mine")}, "build.index: no index is called 'mine'"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_place(parts, said):
    with pytest.raises(UsageError) as caught:
        matrix(**parts)

    assert said in str(caught.value)
    assert str(caught.value).startswith("matrix.yaml, line ")
    assert "more after this" not in str(caught.value)
