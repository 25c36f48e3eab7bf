"""What ran, on what, with what: everything that could explain a bit."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy
import torch

from harness.worker.libraries import loaded
from harness.worker.notes import Notes


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


_PATIENCE = 60.0


def _in_child(ask: Callable[[], Any], **environment: str) -> Any:
    """What a child process answers to a question that reaches cuDNN; None if it fails, is killed or does not end.

    cuDNN does not raise when a part of it is missing, it aborts the process, and an environment that was brought to a
    host as files is without the engines that indexing never uses. A fork is enough, and quick, because this process has
    not touched the GPU yet.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def answer() -> None:
        # An abort is expected here, and worth no file of many GB.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ.update(environment)
        with contextlib.suppress(Exception):
            writer.send(ask())

    child = context.Process(target=answer)
    child.start()
    writer.close()
    try:
        return reader.recv() if reader.poll(_PATIENCE) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


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


_SWITCHES: dict[str, Callable[[], Any]] = {
    "allow_tf32_matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
    "allow_tf32_cudnn": lambda: torch.backends.cudnn.allow_tf32,
    "allow_fp16_reduced_precision_reduction": lambda: torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
    "float32_matmul_precision": torch.get_float32_matmul_precision,
    "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
    "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
    "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
    "mkldnn_available": torch.backends.mkldnn.is_available,
    "num_threads": torch.get_num_threads,
    "num_interop_threads": torch.get_num_interop_threads,
}


def collect(cell: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """Everything known before the job runs; values are JSON, and what cannot be had is noted."""
    gpu = cell["device"] != "cpu"
    capability, shown = getattr(torch.backends, "cpu", None), torch.__config__.show
    facts: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.__version__,
        "torch_git": lambda: torch.version.git_version,
        # Before all that touches the GPU in this process. Without one neither question reaches cuDNN's engines.
        # Where no GPU is visible torch asks neither CUDA nor cuDNN; what it was built with is shown all the same.
        "torch_config": lambda: _in_child(lambda: shown().strip(), CUDA_VISIBLE_DEVICES="") if gpu else shown(),
        "cudnn": lambda: _in_child(torch.backends.cudnn.version) if gpu else None,
        "cuda": lambda: torch.version.cuda,
        "python": lambda: sys.version,
        "numpy": lambda: numpy.__version__,
        "packages": _packages,
        "platform": platform.platform,
        "libc": lambda: " ".join(platform.libc_ver()),
        "cpu": _cpu,
        "cpu_capability": getattr(capability, "get_cpu_capability", lambda: None),
        "gpu": lambda: _gpu() if gpu else {},
        "switches": lambda: notes.gather("provenance.switches", _SWITCHES),
        # All of it; some name folders of this one run (TMPDIR, TORCH_EXTENSIONS_DIR), which are not in the cell's key.
        "environment": lambda: dict(sorted(os.environ.items())),
    }
    return notes.gather("provenance", facts)


def _faiss(question: str, otherwise: Any) -> Any:
    """What faiss answers; `otherwise` where this version of it is not asked that."""
    return getattr(importlib.import_module("faiss"), question, lambda: otherwise)()


def after(cell: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """What is only known once the job has loaded its libraries; as `collect`."""
    facts: dict[str, Callable[[], Any]] = {
        "faiss": lambda: importlib.import_module("faiss").__version__,
        "faiss_compile_options": lambda: _faiss("get_compile_options", ""),
    }
    if cell["device"] != "cpu":
        # Only here: the GPU build of faiss ends the process when it is asked on a machine without a driver.
        facts["faiss_gpus"] = lambda: _faiss("get_num_gpus", 0)
        facts["libraries"] = loaded
    return notes.gather("provenance", facts)
