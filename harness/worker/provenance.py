"""What ran, on what, with what: everything that could explain a bit."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from typing import Any

import numpy
import torch


def _packages() -> dict[str, str]:
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = distribution.version
    return dict(sorted(found.items()))


def _cpu() -> dict[str, Any]:
    info: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    wanted = {
        "model name": "model_name",
        "vendor_id": "vendor",
        "cpu family": "family",
        "model": "model",
        "stepping": "stepping",
        "microcode": "microcode",
        "flags": "flags",
    }
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                name = wanted.get(key.strip())
                if name and name not in info:
                    info[name] = value.strip()
                if not line.strip():
                    break
    except OSError:
        return info
    flags = info.pop("flags", "").split()
    info["vector_extensions"] = [f for f in flags if re.match(r"(sse|ssse|avx|fma|f16c|amx|gfni|vaes|vpcl)", f)]
    return info


def _cuda_library_versions() -> dict[str, str]:
    """Versions that the loaded CUDA libraries report themselves, with the file that each was loaded from.

    What is installed and what is loaded can differ (LD_LIBRARY_PATH, a preloaded system copy), so ask the libraries.
    """
    loaded: dict[str, str] = {}
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            for line in file:
                path = line.rsplit(" ", 1)[-1].strip()
                stem = os.path.basename(path).split(".so")[0]
                if stem in {
                    "libcublas",
                    "libcublasLt",
                    "libcudart",
                    "libcudnn",
                    "libcuda",
                    "libnccl",
                } or stem.startswith("libcudart-"):
                    loaded[stem] = path
    except OSError:
        return {}
    versions = {f"{name}.path": os.path.join(*path.split(os.sep)[-5:]) for name, path in loaded.items()}
    if "libcublasLt" in loaded:
        function = ctypes.CDLL(loaded["libcublasLt"]).cublasLtGetVersion
        function.restype = ctypes.c_size_t
        versions["cublasLt"] = str(function())
    if "libcuda" in loaded:
        number = ctypes.c_int()
        ctypes.CDLL(loaded["libcuda"]).cuDriverGetVersion(ctypes.byref(number))
        versions["cuda_driver_api"] = str(number.value)
    for name, path in loaded.items():
        if name.startswith("libcudart"):
            number = ctypes.c_int()
            ctypes.CDLL(path).cudaRuntimeGetVersion(ctypes.byref(number))
            versions["cuda_runtime"] = str(number.value)
    return versions


def _cudnn_version() -> int | None:
    """The version that the loaded cuDNN reports; None where it cannot be loaded whole.

    Asked in a forked child: an environment that was brought to a host without cuDNN's engines, which indexing never
    uses, does not raise when it is asked, it aborts.
    """
    if not torch.backends.cudnn.is_available():
        return None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(torch.backends.cudnn.version()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return int(answer) if answer.isdigit() else None


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    info: dict[str, Any] = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "architectures_in_wheel": torch.cuda.get_arch_list(),
        "visible_gpus": torch.cuda.device_count(),
    }
    try:
        query = subprocess.run(
            [
                "nvidia-smi",
                "--query-gpu=driver_version,uuid,clocks.sm,clocks.mem,compute_mode",
                "--format=csv,noheader",
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.splitlines()[0]
        info["driver"], info["uuid"], info["clock_sm"], info["clock_memory"], info["compute_mode"] = (
            field.strip() for field in query.split(",")
        )
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        info["driver_error"] = f"{type(error).__name__}: {error}"
    return info


def _switches() -> dict[str, Any]:
    return {
        "allow_tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "allow_tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "allow_fp16_reduced_precision_reduction": torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "mkldnn_available": torch.backends.mkldnn.is_available(),
        "num_threads": torch.get_num_threads(),
        "num_interop_threads": torch.get_num_interop_threads(),
    }


def collect(cell: dict[str, Any]) -> dict[str, Any]:
    """Everything known before the job runs; values are JSON."""
    capability = getattr(torch.backends, "cpu", None)
    return {
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "torch_config": torch.__config__.show(),
        "cuda": torch.version.cuda,
        "cudnn": _cudnn_version(),
        "python": sys.version,
        "numpy": numpy.__version__,
        "packages": _packages(),
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "cpu": _cpu(),
        "cpu_capability": getattr(capability, "get_cpu_capability", lambda: None)(),
        "gpu": _gpu() if cell["device"] != "cpu" else {},
        "switches": _switches(),
        # HOME and TMPDIR name a folder of one run; they cannot change a bit, and would make equal cells look different.
        "environment": {k: v for k, v in sorted(os.environ.items()) if k not in {"HOME", "TMPDIR", "PWD", "OLDPWD"}},
    }


def after(cell: dict[str, Any]) -> dict[str, Any]:
    """What is only known once the job has loaded its libraries."""
    import faiss

    found: dict[str, Any] = {
        "faiss": faiss.__version__,
        "faiss_compile_options": faiss.get_compile_options() if hasattr(faiss, "get_compile_options") else "",
    }
    if cell["device"] != "cpu":
        # Only here: the GPU build of faiss ends the process when it is asked on a machine without a driver.
        found["faiss_gpus"] = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        found["cuda_libraries"] = _cuda_library_versions()
    return found
