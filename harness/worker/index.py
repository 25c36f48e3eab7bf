"""The main job: colbert-ai's own indexer, unmodified on disk, over one collection in this process."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import torch

from harness.worker import capture
from harness.worker.outcomes import Ended
from harness.worker.packing import packbits


def require_device(cell: dict[str, Any]) -> None:
    """End the job before it starts when torch cannot use the device that the cell asks for.

    Raises:
        Ended: `unsupported` when the wheel holds no code for this GPU, or no GPU is visible.
    """
    if cell["device"] == "cpu":
        return
    if not torch.cuda.is_available():
        raise Ended(
            "unsupported",
            f"torch {torch.__version__} sees no GPU: torch.cuda.is_available() is false (CUDA {torch.version.cuda}).",
        )
    capability = torch.cuda.get_device_capability(0)
    if not runs_on(torch.cuda.get_arch_list(), capability):
        raise Ended(
            "unsupported",
            f"The wheel of torch {torch.__version__} holds code for {', '.join(torch.cuda.get_arch_list())}, "
            f"none of which runs on {torch.cuda.get_device_name(0)} (compute capability "
            f"{capability[0]}.{capability[1]}).",
        )


def runs_on(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Say whether a wheel's architecture list holds code for a compute capability.

    Machine code (`sm_XY`) runs on the same major capability with an equal or higher minor one; `sm_XYa` only on exactly
    that one; PTX (`compute_XY`) is compiled by the driver for any equal or higher capability. Source: CUDA C++
    Programming Guide, "Application Compatibility".
    """
    for name in architectures:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        major, minor = int(digits[:-1]), int(digits[-1])
        if kind == "compute" and (major, minor) <= capability:
            return True
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            if number.endswith("a") and minor != capability[1]:
                continue
            return True
    return False


def skip_extensions(cell: dict[str, Any]) -> None:
    """Keep colbert-ai from compiling C++ and CUDA at run time, unless the cell asks for its own kernels.

    On a CPU it would build `segmented_maxsim`, which indexing never calls; on a GPU `decompress_residuals`, never
    called either, and `packbits`, which `packing.packbits` replaces bit for bit.
    """
    if cell["settings"].get("native_extensions"):
        return
    from colbert.indexing.codecs.residual import ResidualCodec
    from colbert.modeling.colbert import ColBERT

    ColBERT.loaded_extensions = True
    ResidualCodec.loaded_extensions = True
    ResidualCodec.packbits = staticmethod(packbits)


def refuse_remote_code(checkpoint: str) -> None:
    """Refuse a checkpoint that wants to run its own Python, and make transformers refuse it too.

    colbert-ai loads configurations with trust_remote_code on. Whoever asks for it here, for whatever model, is not
    given it: the `from_pretrained` of transformers' Auto classes is called with it off, and the function that would
    import a checkpoint's module refuses.

    Raises:
        Ended: `unsupported`, where config.json or tokenizer_config.json has `auto_map`.
    """
    for name in ("config.json", "tokenizer_config.json"):
        path = os.path.join(checkpoint, name)
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            if "auto_map" in json.load(file):
                raise Ended("unsupported", f"{name} of the checkpoint has auto_map: it wants to run code of its own.")
    import transformers
    from colbert.modeling import hf_colbert
    from transformers import dynamic_module_utils
    from transformers.models.auto import auto_factory, configuration_auto, tokenization_auto

    for owner in (transformers.AutoConfig, transformers.AutoModel, transformers.AutoTokenizer):
        owner.from_pretrained = staticmethod(_without_trust(owner.from_pretrained))
    for module in (dynamic_module_utils, auto_factory, configuration_auto, tokenization_auto, hf_colbert):
        module.get_class_from_dynamic_module = _refuse_dynamic_module


def _without_trust(original: Any) -> Any:
    def from_pretrained(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "trust_remote_code": False})

    return from_pretrained


def _refuse_dynamic_module(class_reference: str, *_args: Any, **_kwargs: Any) -> Any:
    raise Ended("unsupported", f"The checkpoint wants to run code of its own ({class_reference}), which is never done.")


def _time_phases(phases: Any, seen: dict[str, Any]) -> None:
    """Time the indexer's own steps, and note what ran (the attention class, autocast) once the model is loaded."""
    from colbert.indexing.collection_indexer import CollectionIndexer

    for method, phase in (("setup", "sample"), ("train", "train"), ("index", "encode"), ("finalize", "finalize")):
        original = getattr(CollectionIndexer, method)

        def timed(self: Any, *args: Any, _original: Any = original, _phase: str = phase) -> Any:
            with phases(_phase):
                return _original(self, *args)

        setattr(CollectionIndexer, method, timed)
    initialise = CollectionIndexer.__init__

    def loaded(self: Any, *args: Any, **kwargs: Any) -> None:
        with phases("load"):
            initialise(self, *args, **kwargs)
        attention = self.checkpoint.bert.encoder.layer[0].attention.self
        seen["attention_class"] = f"{type(attention).__module__}.{type(attention).__qualname__}"
        with self.checkpoint.amp_manager.context():
            seen["autocast_enabled"] = bool(torch.is_autocast_enabled())
            seen["autocast_dtype"] = str(torch.get_autocast_gpu_dtype()) if self.use_gpu else None
        seen["parameters_device"] = str(self.checkpoint.device)

    CollectionIndexer.__init__ = loaded


def run(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Index a collection.

    Args:
        cell: the cell's specification (`passages`, `checkpoint`, `settings`, `device`, `capture`, `swap`).
        out_dir: gets `index/` (colbert-ai's files), `intermediates/` and `intermediates.json`.
        phases: times and names the phases.

    Returns:
        What ran: `observed`, `seconds_capturing`, peak memory in bytes.
    """
    settings = cell["settings"]
    with phases("import"):
        from colbert import Indexer
        from colbert.infra import ColBERTConfig, Run, RunConfig

        skip_extensions(cell)
        refuse_remote_code(cell["checkpoint"])
    with open(cell["passages"], encoding="utf-8") as file:
        passages = [json.loads(line) for line in file]
    seen: dict[str, Any] = {}
    _time_phases(phases, seen)
    gpu = cell["device"] != "cpu"
    index_path = os.path.join(out_dir, "index")
    tap = capture.Tap(os.path.join(out_dir, "intermediates"), cell["capture"], cell.get("swap") or {})
    config = ColBERTConfig(
        nbits=settings["nbits"],
        dim=settings["dim"],
        index_bsize=settings["index_bsize"],
        doc_maxlen=settings["doc_maxlen"],
        kmeans_niters=settings["kmeans_niters"],
        index_path=index_path,
        checkpoint=cell["checkpoint"],
        # A checkpoint's metadata may name the model it was trained from, which colbert-ai would look up on the Hub.
        model_name=cell["checkpoint"],
        avoid_fork_if_possible=True,
    )
    with (
        capture.install(tap),
        Run().context(
            RunConfig(nranks=1, gpus=1 if gpu else 0, root=out_dir, experiment="run", avoid_fork_if_possible=True)
        ),
    ):
        Indexer(checkpoint=cell["checkpoint"], config=config).index(name="index", collection=passages)
    missing = sorted(set(tap.swap) - set(tap.swapped))
    if missing:
        raise Ended("crashed", f"These artifacts were to be swapped but the job never made them: {', '.join(missing)}.")
    capture.write_records(tap, out_dir)
    peak = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if gpu:
        peak["gpu_allocated_bytes"] = torch.cuda.max_memory_allocated(0)
        peak["gpu_reserved_bytes"] = torch.cuda.max_memory_reserved(0)
        free, total = torch.cuda.mem_get_info(0)
        peak["gpu_in_use_bytes"] = total - free
    return {
        "observed": seen,
        "seconds_capturing": round(tap.seconds, 4),
        "peak_memory": peak,
        "swapped": tap.swapped,
        "passages": len(passages),
    }
