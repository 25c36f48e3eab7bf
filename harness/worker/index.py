"""The main job: colbert-ai's own indexer, unmodified on disk, over one collection in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import resource
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy
import torch

from harness.worker import capture
from harness.worker.kernels import replace_extensions
from harness.worker.notes import Notes, patched
from harness.worker.outcomes import Ended


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
    """Keep colbert-ai from compiling C++ and CUDA at run time, unless the cell asks for its own kernels."""
    if not cell["settings"].get("native_extensions"):
        replace_extensions()


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


def attention_class(model: torch.nn.Module) -> str:
    """The class of a model's attention modules, whatever encoder it is: those with no other inside them.

    Raises:
        LookupError: no module's class is called an attention.
    """
    named = [module for module in model.modules() if "attention" in type(module).__name__.lower()]
    inner = {type(m) for m in named if not any(other is not m and other in named for other in m.modules())}
    if not inner:
        raise LookupError("no module of the model has a class with Attention in its name")
    return ", ".join(sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in inner))


def model_facts(model: Any, amp: Any, gpu: bool) -> dict[str, Callable[[], Any]]:
    """What ran, as questions: the attention class, the model's device, and autocast where `amp` says so."""

    def autocast() -> tuple[bool, str | None]:
        with amp.context():
            return torch.is_autocast_enabled(), str(torch.get_autocast_gpu_dtype()) if gpu else None

    return {
        "attention_class": lambda: attention_class(model),
        "autocast_enabled": lambda: autocast()[0],
        "autocast_dtype": lambda: autocast()[1],
        "parameters_device": lambda: str(model.device),
    }


def _watch(phases: Any, notes: Notes, seen: dict[str, Any], passages: int) -> contextlib.ExitStack:
    """Time the indexer's own steps, and note what runs once the model is loaded; closing the stack ends it."""
    encoded: dict[str, int] = {}

    def counting(doc: Any) -> Any:
        def counted(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
            found = doc(self, input_ids, *args, **kwargs)
            phase = phases.current
            encoded[phase] = encoded.get(phase, 0) + len(input_ids)
            # How many make up the sample is colbert-ai's to know.
            of = f" of {passages:,}" if phase == "encode" else ""
            phases.progress(f"{encoded[phase]:,}{of} passages")
            return found

        return counted

    def timing(phase: str) -> Any:
        def wrap(original: Any) -> Any:
            def timed(*args: Any, **kwargs: Any) -> Any:
                with phases(phase):
                    return original(*args, **kwargs)

            return timed

        return wrap

    def loading(initialise: Any) -> Any:
        def loaded(self: Any, *args: Any, **kwargs: Any) -> None:
            with phases("load"):
                initialise(self, *args, **kwargs)
            seen.update(
                notes.gather("observed", model_facts(self.checkpoint, self.checkpoint.amp_manager, self.use_gpu))
            )

        return loaded

    stack = contextlib.ExitStack()
    points = {"__init__": loading} | {name: timing(phase) for name, phase in _PHASES.items()}
    for name, wrap in points.items():
        where = ("seconds.load", "observed") if name == "__init__" else (f"seconds.{_PHASES[name]}",)
        stack.enter_context(notes.hook(where, "colbert.indexing.collection_indexer", f"CollectionIndexer.{name}", wrap))
    stack.enter_context(notes.hook(("progress",), "colbert.modeling.checkpoint", "Checkpoint.doc", counting))
    return stack


_PHASES = {"setup": "sample", "train": "train", "index": "encode", "finalize": "finalize"}
"""Method of colbert-ai's indexer to the phase that it is."""


_SETTINGS = ("nbits", "dim", "index_bsize", "doc_maxlen", "kmeans_niters")


def colbert_config(cell: dict[str, Any], **more: Any) -> Any:
    """colbert-ai's configuration for a cell: those settings that its job has, the checkpoint, and `more`."""
    from colbert.infra import ColBERTConfig

    return _config(
        ColBERTConfig,
        **{name: cell["settings"][name] for name in _SETTINGS if name in cell["settings"]},
        checkpoint=cell["checkpoint"],
        # A checkpoint's metadata may name the model it was trained from, which colbert-ai would look up on the Hub.
        model_name=cell["checkpoint"],
        avoid_fork_if_possible=True,
        **more,
    )


def note_unknown(cell: dict[str, Any], notes: Notes, settings: Sequence[str] = ()) -> None:
    """Note the settings of a cell, or others of a job's own, that this version of colbert-ai does not have.

    What they say does not count there.
    """
    from colbert.infra import ColBERTConfig

    known = {one.name for one in dataclasses.fields(ColBERTConfig)}
    for name in (*_SETTINGS, *settings):
        if name in cell["settings"] and name not in known:
            notes.add(f"settings.{name}", "this version of colbert-ai does not have it")


def _config(kind: Any, **settings: Any) -> Any:
    """A configuration of colbert-ai with those of some settings that this version of it has."""
    known = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in settings.items() if name in known})


@contextlib.contextmanager
def running(gpu: bool, root: str, ranks: int = 1, **more: Any) -> Iterator[None]:
    """Have colbert-ai write below `root` for as long as the `with` block lasts, and run in this process alone.

    On several ranks it starts a process for each (`harness.worker.ranks`). `more` is its `RunConfig`'s.
    """
    from colbert.infra import Run, RunConfig
    from colbert.infra.launcher import Launcher

    config = _config(
        RunConfig, nranks=ranks, gpus=ranks if gpu else 0, root=root, experiment="run",
        avoid_fork_if_possible=ranks == 1, **more,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.enter_context(Run().context(config))
        if ranks == 1 and not hasattr(Launcher, "launch_without_fork"):
            # In older ones even one rank is a process of its own, in which nothing would be recorded.
            stack.enter_context(patched(Launcher, "launch", _launch_here))
        yield


def _launch_here(self: Any, custom_config: Any, *args: Any) -> Any:
    """What colbert-ai's `Launcher.launch_without_fork` does, for one that has only `launch`."""
    from colbert.infra import RunConfig

    return run_here(
        self.callee, type(custom_config).from_existing(custom_config, self.run_config, RunConfig(rank=0)), *args
    )


def run_here(callee: Callable[..., Any], config: Any, *args: Any) -> Any:
    """Call what colbert-ai would start in processes of its own in this one, as the only rank.

    It is colbert-ai's `run_process_without_mp`, and where it has none, what `setup_new_process` does.
    """
    from colbert.infra import Run, launcher
    from colbert.utils import distributed

    if hasattr(launcher, "run_process_without_mp"):
        return launcher.run_process_without_mp(callee, config, *args)
    random.seed(12345)
    numpy.random.seed(12345)
    torch.manual_seed(12345)
    torch.cuda.manual_seed_all(12345)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="12355", WORLD_SIZE="1", RANK="0")
    distributed.init(0)
    with Run().context(config, inherit_config=False):
        return callee(config, *args)


def finished(tap: capture.Tap, observed: dict[str, Any], gpu: bool) -> dict[str, Any]:
    """What the result of a job that makes a cell says of how it ran.

    Raises:
        Ended: an artifact that was to be swapped was never made.
    """
    tap.finish()
    return {
        "observed": observed,
        "seconds_capturing": round(tap.seconds, 4),
        "peak_memory": tap.notes.gather("peak_memory", _peak_memory(gpu)),
        "swapped": tap.swapped,
    }


def launch(cell: dict[str, Any], out_dir: str) -> None:
    """Have colbert-ai index a collection, on as many ranks as the cell says, into `index/` in `out_dir`."""
    from colbert import Indexer

    with open(cell["passages"], encoding="utf-8") as file:
        passages = [json.loads(line) for line in file]
    config = colbert_config(cell, index_path=os.path.join(out_dir, "index"))
    with running(cell["device"] != "cpu", out_dir, cell["settings"].get("nranks", 1)):
        Indexer(checkpoint=cell["checkpoint"], config=config).index(name="index", collection=passages)


def run(
    cell: dict[str, Any], out_dir: str, phases: Any, notes: Notes, rank: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Index a collection.

    Args:
        cell: the cell's specification (`passages`, `checkpoint`, `settings`, `device`, `capture`, `swap`).
        out_dir: gets `index/` (colbert-ai's files) and `intermediates/`.
        phases: times and names the phases.
        notes: gets the reason of what could not be recorded.
        rank: runs the part of one rank of several; all of it is run when absent.

    Returns:
        What ran: `observed`, `seconds_capturing`, peak memory in bytes.
    """
    with phases("import"):
        import colbert  # noqa: F401 - takes long, and belongs to this phase

        skip_extensions(cell)
        refuse_remote_code(cell["checkpoint"])
    with open(cell["passages"], "rb") as file:
        passages = sum(1 for _ in file)
    seen: dict[str, Any] = {}
    gpu = cell["device"] != "cpu"
    tap = capture.Tap(
        os.path.join(out_dir, "intermediates"), cell["capture"], cell.get("swap") or {}, notes, capture.HOOKS
    )
    with _watch(phases, notes, seen, passages), capture.install(tap):
        launch(cell, out_dir) if rank is None else rank()
    note_unknown(cell, notes)
    return {**finished(tap, seen, gpu), "passages": passages}


def _peak_memory(gpu: bool) -> dict[str, Callable[[], int]]:
    def in_use() -> int:
        free, total = torch.cuda.mem_get_info()
        return total - free

    peak: dict[str, Callable[[], int]] = {
        "host_bytes": lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    }
    if gpu:
        peak |= {
            "gpu_allocated_bytes": torch.cuda.max_memory_allocated,
            "gpu_reserved_bytes": torch.cuda.max_memory_reserved,
            "gpu_in_use_bytes": in_use,
        }
    return peak
