"""What ran, on what, with what: everything that could explain a bit."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import resource
import select
import signal
import subprocess
import sys
import time
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


_ASK = {
    "torch_config": "import torch; print(torch.__config__.show())",
    "cudnn": "import torch; print(torch.backends.cudnn.version())",
}
"""Questions whose answer calls cuDNN: on a GPU host, showing torch's configuration prints cuDNN's version too."""


def _in_child(question: str, **environment: str) -> str | None:
    """What a child process prints for one of `_ASK`; None if it fails, is killed or does not end.

    cuDNN does not raise when a part of it is missing, it aborts the process, and an environment that was brought to a
    host as files is without the engines that indexing never uses. A fork is enough, and quick, while this process has
    not touched the GPU; afterwards only a new process may use it.
    """
    if torch.cuda.is_initialized():
        try:
            done = subprocess.run(
                [sys.executable, "-c", _ASK[question]],
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=True,
                env={**os.environ, **environment},
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # An abort is expected here, and worth no file of many GB.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.environ.update(environment)
            answer = torch.__config__.show() if question == "torch_config" else str(torch.backends.cudnn.version())
            os.write(writer, answer.encode())
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(writer)
    return _answer(reader, child)


_PATIENCE = 60.0


def _answer(reader: int, child: int) -> str | None:
    """Everything a child writes until it ends, if it ends well and in time."""
    parts: list[bytes] = []
    deadline = time.monotonic() + _PATIENCE
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            part = pipe.read(65536) if ready else b""
            if not part:
                if not ready:
                    os.kill(child, signal.SIGKILL)
                break
            parts.append(part)
    _, status = os.waitpid(child, 0)
    return b"".join(parts).decode(errors="replace").strip() if status == 0 else None


def _torch_config(gpu: bool) -> str | None:
    """What torch shows of its configuration."""
    # Where no GPU is visible torch asks neither CUDA nor cuDNN; what it was built with is shown all the same.
    return _in_child("torch_config", CUDA_VISIBLE_DEVICES="") if gpu else torch.__config__.show()


def _cudnn_version() -> int | None:
    """The version that cuDNN reports: None where a part of it is missing."""
    version = _in_child("cudnn")
    return int(version) if version and version.isdigit() else None


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
    capability = getattr(torch.backends, "cpu", None)
    facts: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.__version__,
        "torch_git": lambda: torch.version.git_version,
        # Before all that touches the GPU in this process. Without one neither question reaches cuDNN's engines.
        "torch_config": lambda: _torch_config(gpu),
        "cudnn": lambda: _cudnn_version() if gpu else None,
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
