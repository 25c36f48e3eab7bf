"""Programs that stand in for uv and nvidia-smi."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FAKE = Path(__file__).with_name("fake_uv.py")


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, status: int = 0) -> None:
    """Put an `nvidia-smi` on PATH that prints `lines`."""
    script = folder / "nvidia-smi"
    script.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
