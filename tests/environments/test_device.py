"""A cell's key holds the GPU model, or the CPU family with the vector extensions that libraries dispatch on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.environments.device import Device, choose_device, cpu_device, gpus, usable_cores
from harness.errors import UsageError
from tests.support.programs import fake_nvidia_smi

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse sse2 fma avx avx2 avx512f avx512_bf16 amx_tile

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
flags\t\t: fpu
"""
H100 = "0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 9.0"
A100 = "1, GPU-bbbb-2, NVIDIA A100-SXM4-40GB, 8.0"


def cpu(tmp_path: Path, text: str) -> Device:
    (tmp_path / "cpuinfo").write_text(text)
    return cpu_device(tmp_path / "cpuinfo")


def test_a_cpu_is_its_first_processor_and_what_libraries_dispatch_on(tmp_path):
    device = cpu(tmp_path, CPUINFO)

    assert device == Device("cpu", "cpu GenuineIntel 6/143 avx2+fma+avx512f+avx512_bf16+amx_tile")
    assert device.flavour == "cpu"


def test_the_clock_and_the_stepping_do_not_make_another_cpu_and_an_extension_does(tmp_path):
    device = cpu(tmp_path, CPUINFO)

    assert cpu(tmp_path, CPUINFO.replace("2.70GHz", "2.10GHz").replace("fpu sse", "fpu smap sse")) == device
    assert cpu(tmp_path, CPUINFO.replace(" amx_tile", "")) != device
    assert cpu(tmp_path, CPUINFO.replace("143", "207")) != device


def test_a_machine_that_says_nothing_of_its_cpu_still_has_an_identity(tmp_path):
    assert cpu_device(tmp_path / "nothing").identity.endswith(" unknown")
    assert cpu(tmp_path, "flags : fpu\n").identity == "cpu unknown unknown/unknown baseline"


def test_gpus_are_named_by_model_and_capability(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, H100, A100)

    assert gpus() == ["cuda NVIDIA H100 80GB HBM3 9.0", "cuda NVIDIA A100-SXM4-40GB 8.0"]
    assert choose_device("auto") == Device("cuda", "cuda NVIDIA H100 80GB HBM3 9.0")
    assert choose_device("cuda").flavour == "gpu"
    assert choose_device("cpu").kind == "cpu"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", ["A100-SXM4-40GB 8.0"]),
        ("1,0", ["A100-SXM4-40GB 8.0", "H100 80GB HBM3 9.0"]),
        ("GPU-bbbb", ["A100-SXM4-40GB 8.0"]),
        ("0, -1, 1", ["H100 80GB HBM3 9.0"]),
        ("7", []),
        ("", []),
        ("GPU-", []),
        ("MIG-aaaa", ["H100 80GB HBM3 9.0", "A100-SXM4-40GB 8.0"]),
    ],
)
def test_the_gpu_of_the_key_is_the_one_that_the_job_will_see(tmp_path, monkeypatch, visible, expected):
    fake_nvidia_smi(tmp_path, monkeypatch, H100, A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert gpus() == [f"cuda NVIDIA {name}" for name in expected]


@pytest.mark.parametrize("lines", [[], ["NVIDIA-SMI has failed because it could not communicate with the driver"]])
@pytest.mark.parametrize("status", [0, 9])
def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path, monkeypatch, lines, status):
    fake_nvidia_smi(tmp_path, monkeypatch, *lines, status=status)

    assert gpus() == []
    assert choose_device("auto").kind == "cpu"
    with pytest.raises(UsageError, match="use --device cpu"):
        choose_device("cuda")


def test_no_nvidia_smi_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert gpus() == []


def test_the_slug_is_a_folder_name():
    slug = Device("cuda", "cuda NVIDIA H100 80GB/HBM3 9.0").slug

    assert slug == "cuda-nvidia-h100-80gb-hbm3-9.0"


def test_usable_cores_follow_the_affinity_of_the_process():
    assert usable_cores() == len(os.sched_getaffinity(0)) >= 1
