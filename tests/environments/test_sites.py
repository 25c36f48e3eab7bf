"""Site folders with packages exchanged: only those packages change, and neither original does."""

from __future__ import annotations

from importlib.util import cache_from_source
from pathlib import Path

import pytest

from harness.environments.changes import NO_PACKAGE
from harness.environments.contents import STRAY, files_in, packages_in
from harness.environments.exchange import Missing, owns, provider, unresolved
from harness.environments.exchange import exchange as exchange_sites
from harness.environments.installed import examine
from harness.environments.sites import Sites
from tests.support.own_environments import make_virtualenv, site_folder
from tests.support.sites import package


def exchange(base: Path, other: Path, packages: list[str], target: Path) -> None:
    exchange_sites(Sites((base,)), Sites((other,)), packages, target)


def _site(folder: Path, version: str, *, triton: bool = False) -> Path:
    package(folder, "torch", version, {"torch/__init__.py": f"torch {version}", f"torch/only_{version}.py": ""})
    library = {"nvidia/__init__.py": "", "nvidia/cublas/lib/libcublas.so.12": f"cublas {version}"}
    package(folder, "nvidia-cublas-cu12", version, library)
    other = {"nvidia/__init__.py": "", "nvidia/cudnn/lib/libcudnn.so.9": f"cudnn {version}"}
    package(folder, "nvidia-cudnn-cu12", version, other)
    if triton:
        package(folder, "triton", version, {"triton/__init__.py": f"triton {version}"})
    (folder / "torch" / "__pycache__").mkdir()
    Path(cache_from_source(str(folder / "torch" / "__init__.py"))).write_text(f"compiled {version}")
    return folder


def _content(site: Path) -> dict[str, str]:
    return {str(path.relative_to(site)): path.read_text() for path in sorted(site.rglob("*")) if path.is_file()}


@pytest.fixture
def sites(tmp_path: Path) -> tuple[Path, Path]:
    return _site(tmp_path / "a", "1"), _site(tmp_path / "b", "2", triton=True)


def test_one_library_is_exchanged_and_nothing_else_and_the_originals_stay(
    sites: tuple[Path, Path], tmp_path: Path
) -> None:
    before = [_content(site) for site in sites]
    exchange(*sites, ["nvidia_cublas.cu12"], tmp_path / "made")
    made = _content(tmp_path / "made")

    assert made["nvidia/cublas/lib/libcublas.so.12"] == "cublas 2"
    assert made["torch/__init__.py"] == "torch 1"
    assert made["nvidia/cudnn/lib/libcudnn.so.9"] == "cudnn 1"
    assert ("nvidia-cublas-cu12", "2") in {(one.name, one.version) for one in packages_in(tmp_path / "made")}
    assert [_content(site) for site in sites] == before


def test_a_renamed_library_leaves_the_folder_that_it_shares_and_comes_with_its_own(tmp_path: Path) -> None:
    """As of CUDA 13: other names, and one folder for libraries of several packages."""
    a, b = tmp_path / "a", tmp_path / "b"
    package(a, "nvidia-cublas-cu12", "12.8", {"nvidia/cublas/lib/libcublas.so.12": "12"})
    package(a, "nvidia-nvtx-cu12", "12.8", {"nvidia/nvtx/lib/libnvtx.so.1": "12"})
    package(b, "nvidia-cublas", "13.1", {"nvidia/cu13/lib/libcublas.so.13": "13"})
    package(b, "nvidia-nvtx", "13.1", {"nvidia/cu13/lib/libnvtx.so.1": "13"})

    for base, other, libraries in (
        (b, a, {"nvidia/cu13/lib/libnvtx.so.1": "13", "nvidia/cublas/lib/libcublas.so.12": "12"}),
        (a, b, {"nvidia/nvtx/lib/libnvtx.so.1": "12", "nvidia/cu13/lib/libcublas.so.13": "13"}),
    ):
        made = tmp_path / f"made-{base.name}"
        exchange(base, other, ["nvidia-cublas-cu12", "nvidia-cublas"], made)
        assert {path: text for path, text in _content(made).items() if path.startswith("nvidia/")} == libraries
        assert len(packages_in(made)) == 2

    missing = Missing(file="libcublas.so.13")
    assert provider(Sites((b,)), ["nvidia-nvtx", "nvidia-cublas", "nvidia-cublas-cu12"], missing) == "nvidia-cublas"
    assert owns(Sites((b,)), "nvidia-cublas", "libcublas.so.13")
    assert not owns(Sites((b,)), "nvidia-nvtx", "libcublas.so.13")


def test_no_file_of_the_replaced_version_stays_not_even_a_compiled_one(
    sites: tuple[Path, Path], tmp_path: Path
) -> None:
    exchange(*sites, ["torch"], tmp_path / "made")
    made = _content(tmp_path / "made")

    assert "torch/only_2.py" in made
    assert "torch/only_1.py" not in made
    assert [made[name] for name in made if "__pycache__" in name] == ["compiled 2"]


def test_a_package_that_only_one_side_has_comes_or_goes(sites: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = sites
    exchange(a, b, ["triton"], tmp_path / "with")
    exchange(b, a, ["triton"], tmp_path / "without")

    assert _content(tmp_path / "with")["triton/__init__.py"] == "triton 2"
    assert "triton" not in {one.name for one in packages_in(tmp_path / "without")}


def test_a_file_that_two_packages_share_stays_when_one_of_them_goes(sites: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = sites
    (b / "nvidia_cublas_cu12-2.dist-info" / "METADATA").unlink()
    package(b, "nvidia-cublas-cu12", "2", {"nvidia/cublas/lib/libcublas.so.12": "cublas 2"})
    exchange(a, b, ["nvidia-cublas-cu12"], tmp_path / "made")

    assert "nvidia/__init__.py" in _content(tmp_path / "made")


def test_deleting_what_was_made_leaves_the_originals(sites: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    before = [_content(site) for site in sites]
    exchange(*sites, ["torch", "nvidia-cudnn-cu12"], tmp_path / "made")
    shutil.rmtree(tmp_path / "made")

    assert [_content(site) for site in sites] == before


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("ImportError: libcusparseLt.so.0: cannot open shared object file: No such file or directory",
         Missing(file="libcusparseLt.so.0")),
        ("ImportError: site/torch/lib/libtorch_cuda.so: undefined symbol: ncclCommWindowRegister",
         Missing(symbol="ncclCommWindowRegister", asking="libtorch_cuda.so")),
        ("ImportError: x/torch/lib/libtorch_cpu.so: undefined symbol: cuptiActivity, version libcupti.so.12",
         Missing("libcupti.so.12", "cuptiActivity", "libtorch_cpu.so")),
        ("x/libcusparse.so.12: symbol __nvJit_12_4, version libnvJitLink.so.12 not defined in file libnvJitLink.so.12",
         Missing("libnvJitLink.so.12", "__nvJit_12_4", "libcusparse.so.12")),
        ("ValueError in phase import: libcupti.so.*[0-9].*[0-9] not found in the system path ['/a', '/b']",
         Missing(file="libcupti.so.*[0-9].*[0-9]")),
        ("ModuleNotFoundError: No module named 'sympy'", Missing(file="sympy")),
        ("NameError in phase import: name 'sympy' is not defined", Missing(file="sympy")),
        ("RuntimeError: expected scalar type Float", None),
    ],
)  # fmt: skip
def test_the_loader_says_what_is_missing(said: str, missing: Missing | None) -> None:
    assert unresolved(said) == missing


def test_the_package_with_a_missing_library_or_symbol_is_found(sites: tuple[Path, Path]) -> None:
    (sites[0] / "nvidia/cudnn/lib/libcudnn.so.9").write_bytes(b"\0cudnnCreate\0cudnnCreateTensor\0")
    packages = ["torch", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "triton"]
    one = Sites((sites[0],))

    assert provider(one, packages, Missing(file="libcublas.so.12")) == "nvidia-cublas-cu12"
    assert provider(one, packages, Missing(symbol="cudnnCreate")) == "nvidia-cudnn-cu12"
    assert provider(one, packages, Missing(symbol="cudnn")) is None
    assert provider(one, packages, Missing(file="libnccl.so.2")) is None
    assert provider(one, packages, Missing(file="libcublas.so.*[0-9]")) == "nvidia-cublas-cu12"
    assert provider(one, packages, Missing(file="torch")) == "torch"
    assert owns(one, "nvidia-cudnn-cu12", "libcudnn.so.9")
    assert not owns(one, "triton", "libcudnn.so.9")


def test_files_of_no_package_are_exchanged_as_one_and_by_themselves(sites: tuple[Path, Path], tmp_path: Path) -> None:
    """Such as a `sitecustomize.py`, or a module that somebody put into a package's folder."""
    a, b = sites
    (a / "sitecustomize.py").write_text("a")
    (b / "torch/extra.py").write_text("b")
    exchange(a, b, [NO_PACKAGE], tmp_path / "made")
    exchange(a, b, ["torch"], tmp_path / "torch")
    made, other = _content(tmp_path / "made"), _content(tmp_path / "torch")

    assert made["torch/extra.py"] == "b"
    assert "sitecustomize.py" not in made
    assert made["torch/__init__.py"] == "torch 1"
    assert other["sitecustomize.py"] == "a"
    assert "torch/extra.py" not in other


def test_of_the_user_s_own_folders_no_inode_is_touched_and_the_first_of_two_packages_counts(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    package(first, "numpy", "1", {"numpy/__init__.py": "first"})
    package(second, "numpy", "0", {"numpy/__init__.py": "second", "numpy/old.py": ""})
    package(second, "torch", "1", {"torch/__init__.py": "torch"})
    package(other, "torch", "2", {"torch/__init__.py": "other"})
    before = {path: path.lstat().st_ctime_ns for path in tmp_path.rglob("*")}
    exchange_sites(Sites((first, second), lent=True), Sites((other,), lent=True), ["torch"], tmp_path / "made")
    made = _content(tmp_path / "made")

    assert {path: path.lstat().st_ctime_ns for path in before} == before
    assert (made["numpy/__init__.py"], made["torch/__init__.py"]) == ("first", "other")
    assert "numpy/old.py" not in made


def test_a_lent_folder_of_data_is_one_link_and_what_is_there_is_the_same_as_file_by_file(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    headers = {"torch/include/a.h": "1", "torch/include/b/c.h": "1", "torch/lib/libtorch.so": "1", "torch/x.py": "1"}
    package(first, "torch", "1", headers)
    package(first, "numpy", "1", {"numpy/data/one.txt": "1", "shared/data/first.txt": "1", "mixed/data/numpy.txt": "1"})
    package(second, "faiss", "1", {"shared/data/second.txt": "1", "hidden/faiss.txt": "1"})
    package(second, "numpy", "0", {"numpy/data/old.txt": "0", "hidden/numpy.txt": "0"})
    package(
        other, "triton", "2", {"mixed/data/triton.txt": "2", "triton/data/one.txt": "2", "triton/data/two.txt": "2"}
    )
    for lent in (True, False):
        sites = Sites((first, second), lent=lent), Sites((other,), lent=lent)
        exchange_sites(*sites, ["triton"], tmp_path / f"made-{lent}")
    made = tmp_path / "made-True"
    found = {place for _path, place in files_in(made)}

    assert found == _content(tmp_path / "made-False").keys()
    assert found >= {"shared/data/first.txt", "shared/data/second.txt", "hidden/faiss.txt", "mixed/data/triton.txt"}
    assert not {"numpy/data/old.txt", "hidden/numpy.txt"} & found
    links = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_symlink()}
    assert links >= {"torch/include", "torch/lib/libtorch.so", "torch/x.py", "triton"}
    assert not {"torch", "torch/lib", "shared", "shared/data", "hidden", "mixed"} & links


_LISTS = {
    "top_level.txt": "numpy\n_numpy\n",
    "installed-files.txt": "../numpy/__init__.py\n../_numpy.cpython-311.so\nPKG-INFO\n",
    "SOURCES.txt": "src/numpy/__init__.py\n",
}


@pytest.mark.parametrize("listed", _LISTS)
@pytest.mark.parametrize("metadata", ["egg-info", "dist-info"])
def test_a_package_whose_installer_kept_no_record_has_its_files_all_the_same(
    tmp_path: Path, metadata: str, listed: str
) -> None:
    """As Linux distributions and old installers leave them; of the modules that it does not name, it has its own."""
    made = {}
    for name, version in (("a", "1"), ("b", "2")):
        site = made[name] = tmp_path / name
        package(site, "torch", "1", {"torch/__init__.py": "", "numpy/of_torch.py": ""})
        about = site / f"numpy-{version}.{metadata}"
        for path, text in {
            f"{about.name}/{'PKG-INFO' if metadata[0] == 'e' else 'METADATA'}": f"Name: numpy\nVersion: {version}\n",
            f"{about.name}/{listed}": _LISTS[listed],
            "numpy/__init__.py": version, "_numpy.cpython-311.so": version, "other.py": "",
        }.items():  # fmt: skip
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)
    exchange(made["a"], made["b"], ["numpy"], tmp_path / "made")
    found = _content(tmp_path / "made")
    native = found["_numpy.cpython-311.so"]

    assert found["numpy/__init__.py"] == "2"
    assert native == ("1" if listed == "SOURCES.txt" else "2")
    assert f"numpy-1.{metadata}/{listed}" not in found
    assert {"numpy/of_torch.py", "other.py"} <= found.keys()


def test_what_an_environment_is_known_by_and_what_is_exchanged_are_the_same_files(tmp_path: Path) -> None:
    """Whatever differs by its digest can be exchanged by its name, and then nothing differs any more."""
    one, other = (
        make_virtualenv(
            tmp_path / name,
            files={
                "numpy-1.egg-info/PKG-INFO": "Name: numpy\nVersion: 1\n",
                "numpy/core.py": f"VALUE = {name!r}\n",
                "nvidia/__init__.py": f"VALUE = {name!r}\n",
                "sitecustomize.py": f"VALUE = {name!r}\n",
                **{f"nvidia_{n}-1.dist-info/METADATA": f"Name: nvidia-{n}\nVersion: 1\n" for n in ("a", "b")},
                **{f"nvidia_{n}-1.dist-info/RECORD": "nvidia/__init__.py,,\n" for n in ("a", "b")},
            },
        )
        for name in ("one", "other")
    )
    a, b = (examine(venv / "bin" / "python", "x", tmp_path / "cache") for venv in (one, other))
    differ = {name for name in {*a.digests, *b.digests} if a.digests.get(name) != b.digests.get(name)}

    assert differ == {"numpy", "nvidia-a", "nvidia-b", STRAY}
    exchange(
        site_folder(one), site_folder(other), [NO_PACKAGE if name == STRAY else name for name in differ],
        tmp_path / "made",
    )  # fmt: skip
    left_out = {name: text for name, text in _content(site_folder(other)).items() if "__pycache__" not in name}
    assert _content(tmp_path / "made") == left_out


def test_a_link_to_a_folder_that_it_is_in_is_not_followed_for_ever_and_any_other_is(tmp_path: Path) -> None:
    site = tmp_path / "site"
    package(site, "torch", "1", {"torch/__init__.py": ""})
    (site / "torch" / "again").symlink_to(site)
    (site / "alias").symlink_to(site / "torch")

    assert {place for _path, place in files_in(site)} == {
        "torch/__init__.py", "alias/__init__.py",
        *(f"torch-1.dist-info/{name}" for name in ("METADATA", "RECORD")),
    }  # fmt: skip
