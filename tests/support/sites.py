"""Site folders with packages that do nothing."""

from __future__ import annotations

from pathlib import Path


def package(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Install a package of these files, with a RECORD that also lists what is not there."""
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
    written = {**files, f"{metadata.name}/METADATA": f"Name: {name}\nVersion: {version}\n"}
    for path, text in written.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    listed = [*written, f"{metadata.name}/RECORD", "../../../bin/tool", "left/behind.py"]
    (metadata / "RECORD").write_text("".join(f"{path},,\n" for path in listed))
