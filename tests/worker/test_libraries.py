"""Which copies of CUDA's libraries are in a process, asked in a real environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.sites import package

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import ctypes, json, sys
import torch
from harness.worker.libraries import loaded
for path in sys.argv[1:]:
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
print(json.dumps({"copies": loaded(), "cuda": torch.version.cuda}))
"""


def ask(python: Path, *libraries: Path) -> dict[str, Any]:
    """What is loaded once torch is, and then some more libraries."""
    said = subprocess.run(
        [python, "-c", _PROGRAM, *libraries], capture_output=True, text=True, check=True, cwd=ROOT, timeout=250
    )
    found = json.loads(said.stdout)
    if not found["cuda"]:
        pytest.skip("this torch is not built for CUDA")
    assert isinstance(found, dict)
    return found


def runtime_of(python: Path) -> Path:
    """The CUDA runtime of an environment, wherever its package has put it."""
    return next((python.parent.parent / "lib").glob("python3*/site-packages/nvidia/*/lib/libcudart.so.*"))


def test_what_torch_uses_is_found_with_its_package(torch_interpreter: Path) -> None:
    """Whether it is `nvidia-cublas-cu12` in `nvidia/cublas/lib` or `nvidia-cublas` in `nvidia/cu13/lib`."""
    found = ask(torch_interpreter)
    (cublas,) = [copy for copy in found["copies"] if copy["library"] == "libcublas"]
    name, version = cublas["package"].split()

    assert cublas["used_by"] == ["torch"]
    assert name.startswith("nvidia-cublas")
    assert version.startswith(f"{cublas['version']}.")
    assert version.split(".")[0] == found["cuda"].split(".")[0]
    assert {copy["library"] for copy in found["copies"]} >= {"libcublas", "libcublasLt", "libcudart", "libcudnn"}
    assert all(copy["package"] for copy in found["copies"])


def test_a_second_copy_is_recorded_beside_the_one_that_torch_uses(torch_interpreter: Path, tmp_path: Path) -> None:
    own = runtime_of(torch_interpreter)
    loose, packaged = tmp_path / "loose" / own.name, tmp_path / "site" / "nvidia" / "else" / "lib" / own.name
    package(tmp_path / "site", "nvidia-cuda-runtime-cu99", "99.1", {f"nvidia/else/lib/{own.name}": ""})
    for path in (loose, packaged):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(own.read_bytes())

    found = ask(torch_interpreter, loose, packaged)

    copies = [copy for copy in found["copies"] if copy["library"] == "libcudart"]
    assert len(copies) == 3
    (used,) = [copy for copy in copies if copy["used_by"]]
    assert used["used_by"] == ["torch"]
    assert {copy["package"] for copy in copies} == {used["package"], "", "nvidia-cuda-runtime-cu99 99.1"}
    assert used["package"].split()[0] in {"nvidia-cuda-runtime", "nvidia-cuda-runtime-cu11", "nvidia-cuda-runtime-cu12"}
    assert {copy["version"] for copy in copies} == {used["version"]}


def test_a_copy_that_was_preloaded_is_the_one_that_torch_uses(torch_interpreter: Path, tmp_path: Path) -> None:
    """What is installed is not always what is used: the loader takes a library of the right name that is there."""
    own = runtime_of(torch_interpreter)
    (tmp_path / own.name).write_bytes(own.read_bytes())
    first = _PROGRAM.replace("import torch\n", "", 1).replace("print(", "import torch\nprint(")
    said = subprocess.run(
        [torch_interpreter, "-c", first, tmp_path / own.name],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=250,
    )  # fmt: skip

    (used,) = [c for c in json.loads(said.stdout)["copies"] if c["library"] == "libcudart" and c["used_by"]]
    assert used["file"].endswith(f"{tmp_path.name}/{own.name}")
    assert used["package"] == ""
