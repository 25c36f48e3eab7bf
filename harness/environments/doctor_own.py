"""Whether jobs can run in an environment of the user's own, and why not, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.environments.device import Device, capability_of, has_code
from harness.environments.doctor import Check, Verdict
from harness.environments.installed import IMPORT_SECONDS, NEEDED, NEWEST, ask, run_quietly
from harness.errors import HarnessError

_TRY = r"""
import importlib, json
def told(error):
    return "%s: %s" % (type(error).__name__, (str(error).strip().splitlines() or [""])[-1][:300])
found = {}
for name in MODULES:
    try:
        module = importlib.import_module(name)
        found[name] = {"version": str(getattr(module, "__version__", ""))}
    except BaseException as error:
        found[name] = {"error": told(error)}
if "error" not in found["torch"]:
    import torch
    found["torch"]["cuda"] = torch.version.cuda
    found["torch"]["architectures"] = torch.cuda.get_arch_list() if torch.cuda.is_available() else []
    found["torch"]["sees"] = bool(torch.cuda.is_available())
if "error" not in found["faiss"]:
    import faiss
    found["faiss"]["gpu"] = hasattr(faiss, "StandardGpuResources")
if not any("error" in one for one in found.values()):
    try:
        import tempfile
        from colbert.infra import ColBERTConfig
        from colbert.modeling.hf_colbert import class_factory
        from transformers import BertConfig, BertModel
        small = dict(num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16)
        with tempfile.TemporaryDirectory() as folder:
            BertModel(BertConfig(vocab_size=32, hidden_size=16, **small)).save_pretrained(folder)
            class_factory(folder).from_pretrained(folder, ColBERTConfig(dim=8))
        found["model"] = {}
    except Exception as error:
        found["model"] = {"error": told(error)}
print("harness:" + json.dumps(found))
"""
_ORDER = ("numpy", *NEEDED)


def examine_own(python: Path, what: str, device: Device) -> Iterator[Check]:
    """Checks of an interpreter: its Python, each module that jobs import, and code for the device.

    Args:
        python: the interpreter; nothing is written into it.
        what: what the user called it.
        device: where jobs would run.
    """
    try:
        told = ask(python, what)
    except HarnessError as error:
        yield Check("python", "problem", str(error))
        return
    new = tuple(int(part) for part in told["version"].split(".")[:2]) > NEWEST
    newest = f"; the newest that this harness was tried with is {NEWEST[0]}.{NEWEST[1]}" if new else ""
    yield Check("python", "warning" if new else "ok", f"{told['implementation']} {told['version']}{newest}.")
    missing = [name for name in NEEDED if name not in told["modules"]]
    for name in missing:
        yield Check(name, "problem", f"{name} is not installed there, and no job can run without: {NEEDED[name]}.")
    if missing:
        return
    done = run_quietly(python, ["-c", f"MODULES = {list(_ORDER)!r}\n{_TRY}"], what, IMPORT_SECONDS)
    line = next((one for one in done.stdout.splitlines() if one.startswith("harness:")), "")
    if not line:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        yield Check("imports", "problem", f"Importing what a job needs ends the interpreter: {last[:300]}")
        return
    found: dict[str, dict[str, Any]] = json.loads(line.removeprefix("harness:"))
    for name in _ORDER:
        wrong = found[name].get("error")
        verdict: Verdict = "problem" if wrong else "ok"
        shown = f"It does not import: {wrong}." if wrong else f"{found[name]['version']} imports.".strip()
        yield Check(name, verdict, shown)
    if "model" in found:
        wrong = found["model"].get("error")
        shown = f"colbert-ai does not load a model with this transformers: {wrong}." if wrong else "A small one loads."
        yield Check("model", "problem" if wrong else "ok", shown)
    if device.kind != "cpu" and "error" not in found["torch"]:
        yield _code(found["torch"], device)
        if "error" not in found["faiss"] and not found["faiss"].get("gpu"):
            yield Check("faiss", "warning", "This build of faiss has no code for GPUs: k-means runs on the CPU.")


def _code(torch: dict[str, Any], device: Device) -> Check:
    """Whether a torch has code for a GPU."""
    if not torch["sees"]:
        built = f"is a build for CUDA {torch['cuda']}" if torch["cuda"] else "is a build without CUDA"
        return Check("gpu", "problem", f"Its torch {built} and sees no GPU: jobs on {device.identity} cannot run.")
    held = [name for name in torch["architectures"] if name.startswith("sm_") and name[3:].isdigit()]
    if has_code(held, device.identity) or any(name.startswith("compute_") for name in torch["architectures"]):
        return Check("gpu", "ok", f"Its torch has code for {device.identity.removeprefix('cuda ')}.")
    capability = ".".join(map(str, capability_of(device.identity) or ()))
    return Check(
        "gpu", "problem",
        f"The wheel of its torch holds code for {', '.join(torch['architectures'])}, none of which runs on a GPU of "
        f"compute capability {capability}.",
    )  # fmt: skip
