"""Stands in for uv: makes virtualenvs and installs by writing metadata only, and notes each call.

Called as `python -S fake_uv.py STATE uv-arguments…`; STATE is a folder. `STATE/calls` gets one line for each call, and
`STATE/variables` the variables of the last one and its folder as `cwd`.
`STATE/fail` makes `pip install` end with its text on standard error and status 2 after half of the packages,
`STATE/modules` makes it write a module for each package, and the virtualenv one that a Python can be started in,
`STATE/slow` makes it take a moment, `STATE/hang` makes it wait, its process number in `STATE/pid`, and `STATE/other`
installs other packages than those asked for.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path


def main(state: Path, arguments: list[str]) -> int:
    with (state / "calls").open("a", encoding="utf-8") as calls:
        calls.write(" ".join(arguments) + "\n")
    (state / "variables").write_text(json.dumps({**os.environ, "cwd": str(Path.cwd())}), encoding="utf-8")
    if arguments[0] == "venv":
        folder = Path(arguments[-1])
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        if (state / "modules").exists():
            home = f"home = {Path(sys.base_prefix) / 'bin'}"
            (folder / "pyvenv.cfg").write_text(f"{home}\ninclude-system-site-packages = false\n", encoding="utf-8")
    elif arguments[:2] == ["pip", "install"]:
        return install(state, arguments)
    return 0


def install(state: Path, arguments: list[str]) -> int:
    site = Path(arguments[arguments.index("--python") + 1]).parent.parent / "lib" / "python3.11" / "site-packages"
    lock = Path(arguments[arguments.index("--requirements") + 1]).read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)
    if (state / "slow").exists():
        time.sleep(1)
    if (state / "hang").exists():
        # Whoever finds the file may end this process at once, so it must have its number by then.
        (state / "pid.new").write_text(str(os.getpid()), encoding="utf-8")
        (state / "pid.new").rename(state / "pid")
        time.sleep(600)
    failing = (state / "fail").exists()
    if (state / "other").exists():
        pins[-1] = (pins[-1][0], "0.0.1")
    for name, version in pins[: len(pins) // 2] if failing else pins:
        metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText\n")
        if (state / "modules").exists():
            module = re.sub(r"-(ai|cpu)$", "", name).replace("-", "_")
            (site / f"{module}.py").write_text("", encoding="utf-8")
    if failing:
        sys.stderr.write((state / "fail").read_text(encoding="utf-8"))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
