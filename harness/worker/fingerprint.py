"""What an environment computes on a few texts, kept beside a ColBERT index, so that another one can be held against it.

    python fingerprint.py take INDEX
    python fingerprint.py check INDEX

This file needs torch, NumPy and colbert-ai with what it requires, and nothing else of the harness: copy it beside a
service, and let the service ask `check(INDEX)` when it starts. docs/fingerprint.md has the format and the answers.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

with contextlib.suppress(ImportError):  # an environment without NumPy has no torch either, which is said
    import numpy

SCHEMA = 1
FILE = "fingerprint.json"
"""The fingerprint's name in the folder of its index."""
ORDER = (
    "query_tokens", "passage_tokens", "query_embeddings", "passage_embeddings", "centroid_scores", "cells",
    "decompressed_rows", "maxsim", "maxsim_of_index",
)  # fmt: skip
"""What is computed, in the order in which one follows from another."""
QUERIES = (
    "Can I get council tax support while I study full time?", "nDCG@10 on a 4,096-token window?", "x",
    "what does \u201cna\u00efve caf\u00e9\u201d mean in Z\u00fcrich", "\u91cf\u5b50\u529b\u5b66\u3068\u306f\u4f55",
    "Who pays when a tenant leaves 3\u00bd months before the end of the lease, and nobody told the landlord?",
)  # fmt: skip
PASSAGES = (
    "You may pay less council tax if nobody in your home counts as an adult. Full-time students do not count.",
    "Na\u00efve means showing little experience. A cafe\u0301 is a small restaurant; in Zu\u0308rich it opens at 6:30.",
    "Late interaction keeps a vector for each token. A score is the sum of the greatest dot products (MaxSim).",
    "If a tenant leaves early, rent is due until the end of the lease, unless the landlord agrees to end it. " * 3
    + "Notice must be given in writing, 28 days before; a deposit of \u00a31,250.00 is returned within 14 days.",
    "\u91cf\u5b50\u529b\u5b66\u306f\u3001\u81ea\u7136\u3092\u8a00\u3044\u8868\u3059\u7406\u8ad6\u3067\u3059\u3002",
    "Water boils at 100 \u00b0C at sea level, and at about 93 \u00b0C in a town 2,000 m above it.", "No.",
    "The patient should take one tablet twice a day, with food, and stop at once if a rash appears.",
)  # fmt: skip
INDEX_PASSAGES = 64
"""So many of the first passages of an index are decompressed and scored."""
KEPT = 40_960
"""Values that are kept of a quantity: all of them, or rows at even distances. Together they stay below 1 MB."""
_VARIABLES = re.compile(r"(OMP|MKL|OPENBLAS|ONEDNN|DNNL|CUBLAS|CUDNN|NVIDIA|ATEN|PYTORCH|TORCH)_[A-Z0-9_]+")
"""Environment variables by which libraries choose how to compute."""
_SETTINGS = ("dim", "nbits", "query_maxlen", "doc_maxlen", "similarity", "mask_punctuation", "attend_to_mask_tokens")
"""Of an index's configuration, what decides what is computed here."""
_CHECKPOINT_FILES = re.compile(
    r"config\.json|artifact\.metadata|.*\.safetensors|(tokenizer|vocab|merges|special_tok|added_tok|sentencep|spiece|spm).*"
)
"""Those that decide what a checkpoint computes."""


class Unusable(Exception):  # noqa: N818 - the user can mend it
    """Nothing can be computed or compared; its text is a sentence for the user."""


class Difference(NamedTuple):
    """A quantity that differs: how, and of its values that were kept, how many do, and by how much at most.

    `greatest` is None where there is no number: another shape or dtype, or one side is infinite or no number.
    """

    name: str
    words: str
    kept: int = 0
    differ: int = 0
    greatest: float | None = None


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        answer: `same bits`, `same rankings` (and other bits), or `different`.
        sentence: the answer for people.
        differences: the quantities that differ, in the order in which they are computed.
        rankings: what is found otherwise for a canary query, a sentence each.
        environment: what differs in it: what, then, now.
        unsteady: quantities that were not repeatable when they were taken, so that their bits are not compared.
    """

    answer: str
    sentence: str
    differences: list[Difference]
    rankings: list[str]
    environment: list[tuple[str, str, str]]
    unsteady: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {**self._asdict(), "differences": [one._asdict() for one in self.differences]}

    def lines(self) -> Iterator[str]:
        """The answer first, then what differs."""
        yield from (self.answer, self.sentence)
        yield from (f"  {one.name}: {one.words}" for one in self.differences)
        yield from (f"  {one}" for one in self.rankings)
        yield from (f"  {name}: bits not compared, they changed from run to run" for name in self.unsteady)
        yield from (f"  {what}: {then} -> {now}" for what, then, now in self.environment)


def take(index: str, checkpoint: str | None = None) -> dict[str, Any]:
    """Compute the fingerprint of an index in this environment; `write` keeps it.

    Args:
        index: its folder.
        checkpoint: a folder, or a name in the Hub's cache, where it is not the one that the index names.

    Raises:
        Unusable: there is no such index or checkpoint, or it cannot be read safely.
    """
    with _quietly():
        held = _Held(index)
        folder, digests = _checkpoint(checkpoint, held.config)
        model = _load(index, folder)
        # Twice: what changes from run to run says nothing about another environment.
        made, again = (_compute(held, model, QUERIES, PASSAGES) for _ in range(2))
        return {
            "schema": SCHEMA, "index": held.digests, "checkpoint": digests,
            "queries": list(QUERIES), "passages": list(PASSAGES), "environment": _environment(model),
            "quantities": {
                name: {**pack(made[name]), "repeatable": _digest(made[name]) == _digest(again[name])} for name in ORDER
            },
        }  # fmt: skip


def check(index: str, checkpoint: str | None = None, fingerprint: str | None = None) -> Finding:
    """Compute the same here, and say how it differs from what was kept, in `fingerprint` or the index's folder.

    Raises:
        Unusable: as `take` and `read`, or the fingerprint is of another index or another checkpoint.
    """
    path = fingerprint or os.path.join(index, FILE)
    with _quietly():
        held = _Held(index)
        taken = read(path)
        folder, digests = _checkpoint(checkpoint, held.config)
        here = {"index": held.digests, "checkpoint": digests}
        for what, place in (("index", index), ("checkpoint", folder)):
            for name in _changed(taken[what], here[what]):
                raise Unusable(f"{path} is of another {what}: {name} of {place} is not what it was taken of.")
        model = _load(index, folder)
        return judge(taken, _compute(held, model, taken["queries"], taken["passages"]), _environment(model))


def judge(taken: Mapping[str, Any], now: Mapping[str, Any], environment: Mapping[str, str]) -> Finding:
    """Say how quantities that were computed in an environment differ from those of a fingerprint."""
    kept = taken["quantities"]
    unsteady = [name for name in ORDER if not kept[name]["repeatable"]]
    found = (_difference(name, kept[name], now[name]) for name in ORDER if name not in unsteady)
    differences = list(filter(None, found))
    rankings = list(_found_otherwise({name: _unpack(kept[name]) for name in ORDER}, now))
    environments = (taken["environment"], environment)
    changed = [(name, *(one.get(name, "absent") for one in environments)) for name in _changed(*environments)]
    first = f"{differences[0].name} is the first that differs ({differences[0].words})" if differences else ""
    if rankings or any(one.name.endswith("_tokens") or one.greatest is None for one in differences):
        answer, sentence = "different", f"Not the environment that took the fingerprint: {first or rankings[0]}."
    elif differences:
        answer, sentence = "same rankings", f"Other bits, and every canary query finds the same: {first}."
    elif unsteady:
        answer, sentence = "same rankings", "Every canary query finds the same; so do the bits of what is repeatable."
    else:
        answer, sentence = "same bits", f"All {len(ORDER)} quantities are what they were, bit for bit."
    return Finding(answer, sentence, differences, rankings, changed, unsteady)  # type: ignore[arg-type]


def write(record: Mapping[str, Any], path: str) -> None:
    """Keep a fingerprint, with a seal over all of it.

    Raises:
        Unusable: it cannot be written.
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**record, "seal": _hash(record)}, file, indent=1)
    except OSError as error:
        raise Unusable(f"{path} cannot be written ({error.strerror}): name a place with --fingerprint.") from error


def require_place(path: str) -> None:
    """See that a fingerprint can be kept there, before it is computed.

    Raises:
        Unusable: it cannot.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise Unusable(f"{path} cannot be written: name a place with --fingerprint.")


def read(path: str) -> dict[str, Any]:
    """A fingerprint that `write` kept.

    Raises:
        Unusable: there is none, it is spoiled, or a newer harness took it.
    """
    if not os.path.isfile(path):
        raise Unusable(f"There is no fingerprint {path}: take one in the environment that made the index.")
    record = _json(path)
    schema = record.get("schema") if isinstance(record, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise Unusable(f"{path} has schema {schema}, and this file knows {SCHEMA}: copy the newer fingerprint.py.")
    if schema != SCHEMA or record.pop("seal", None) != _hash(record):
        raise Unusable(f"{path} is spoiled, or no fingerprint: what is in it does not fit its seal. Take it again.")
    return dict(record)


def pack(array: Any) -> dict[str, Any]:
    """A quantity as a fingerprint has it: its digest, and its values or as many rows as are kept."""
    values = numpy.ascontiguousarray(_rows(array)).astype(array.dtype.newbyteorder("<")).tobytes()
    about = {"dtype": array.dtype.name, "shape": list(array.shape), "digest": _digest(array)}
    return {**about, "values": base64.b64encode(values).decode()}


def _unpack(kept: Mapping[str, Any]) -> Any:
    """The kept rows; of a quantity that is kept whole, in its own shape."""
    dtype, shape = numpy.dtype(kept["dtype"]), kept["shape"]
    flat = numpy.frombuffer(base64.b64decode(kept["values"]), dtype.newbyteorder("<")).astype(dtype)
    return flat.reshape(shape if flat.size == numpy.prod(shape) else (-1, shape[-1]))


def _rows(array: Any) -> Any:
    """Rows that are kept: all, or at even distances, the first and the last among them."""
    flat = array.reshape(-1, array.shape[-1])
    most = min(len(flat), max(1, KEPT // flat.shape[1]))
    return flat[numpy.linspace(0, len(flat) - 1, most).astype(numpy.int64)]


def _digest(array: Any) -> str:
    return _hash([array.dtype.name, list(array.shape)], numpy.ascontiguousarray(array).tobytes())


def _hash(head: Any, data: Any = b"") -> str:
    made = hashlib.blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=16)
    made.update(data)
    return made.hexdigest()


def _difference(name: str, kept: Mapping[str, Any], now: Any) -> Difference | None:
    """How a quantity differs from what was kept; None where it is the same bit for bit."""
    then, here = (kept["dtype"], kept["shape"]), (now.dtype.name, list(now.shape))
    if kept["digest"] == _digest(now):
        return None
    if then != here:
        return Difference(name, f"{here[0]} of shape {here[1]}, and it was {then[0]} of shape {then[1]}")
    before, after = (numpy.ascontiguousarray(one).ravel() for one in (_unpack(kept), _rows(now)))
    of = f"{len(before):,} values" if len(before) == now.size else f"{len(before):,} kept values of {now.size:,}"
    other = (before.view(numpy.uint8) != after.view(numpy.uint8)).reshape(len(before), -1).any(1)
    if not other.any():
        return Difference(name, f"none of the {of}, but others", len(before), 0, 0.0)
    with numpy.errstate(invalid="ignore"):
        apart = numpy.abs(after.astype(numpy.float64) - before.astype(numpy.float64))
    # Equal infinities and two NaNs have no distance; NaN on one side only has no number.
    apart[~other | (numpy.isnan(before) & numpy.isnan(after))] = 0.0
    apart[numpy.isnan(apart)] = numpy.inf
    worst, differ = int(apart.argmax()), int(other.sum())
    words = f"{differ:,} of {of}, by {apart[worst]:.3g} at most ({before[worst]:.9g} -> {after[worst]:.9g})"
    return Difference(name, words, len(before), differ, float(apart[worst]) if numpy.isfinite(apart[worst]) else None)


def _found_otherwise(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is found otherwise for a query: passages in another order, or candidates in other lists of the index."""
    for name, what in (("maxsim", "the canary passages"), ("maxsim_of_index", "the first passages of the index")):
        before, after = (numpy.argsort(-one[name].astype(float), axis=1, kind="stable") for one in (then, now))
        for query, (one, other) in enumerate(zip(before, after)):  # noqa: B905 - Python 3.9 has no strict
            for place in numpy.flatnonzero(one != other)[:1]:
                yield f"query {query}: {what} rank otherwise from {place + 1} on ({one[place]} -> {other[place]})"
    for query, (before, after) in enumerate(zip(then["cells"], now["cells"])):  # noqa: B905 - Python 3.9 has no strict
        if left := sorted({*before.tolist()} ^ {*after.tolist()}):
            yield f"query {query}: candidates come from other centroids ({', '.join(map(str, left))})"


def _changed(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    return [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]


# ---- the index and the checkpoint, read without running anything that is in them


def _json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"{path} cannot be read: {error}.") from error


def _tensors(index: str, name: str) -> Any:
    """What torch saved in a file of an index: tensors, and nothing that runs code.

    Before torch 2.6 a file in one of torch's other formats gets around `weights_only`, so these are refused.
    """
    import torch

    path = os.path.join(index, name)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in names or "data.pkl" not in names:
            raise ValueError("it is not a plain archive of tensors")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Unusable(f"{path} cannot be read as tensors: {(str(error).splitlines() or [''])[0][:200]}.") from error


class _Held:
    """The part of an index that a fingerprint is of; `digests` by name, `config` as its metadata has it."""

    def __init__(self, index: str) -> None:
        for name in ("metadata.json", "centroids.pt", "buckets.pt", "0.codes.pt", "0.residuals.pt", "doclens.0.json"):
            if not os.path.isfile(os.path.join(index, name)):
                raise Unusable(f"{index} is not the folder of a whole ColBERT index: it has no {name}.")
        metadata, lengths = (_json(os.path.join(index, name)) for name in ("metadata.json", "doclens.0.json"))
        try:
            self.config, self.lengths = metadata["config"], lengths[:INDEX_PASSAGES]
            rows = sum(self.lengths)
            self.centroids, self.weights = _tensors(index, "centroids.pt"), _tensors(index, "buckets.pt")[1]
            self.codes, self.residuals = _tensors(index, "0.codes.pt")[:rows], _tensors(index, "0.residuals.pt")[:rows]
            # What contradicts itself is refused here: a fault of the index is none of this environment.
            whole = len(self.codes) == len(self.residuals) == rows and len(self.weights) == 1 << self.config["nbits"]
            codes = self.codes.aminmax() if whole and min(self.lengths) > 0 else (-1, -1)
            if not 0 <= int(codes[0]) <= int(codes[1]) < len(self.centroids):
                raise ValueError("its tensors do not go together")
            self.digests = {"settings": _hash([self.config.get(name) for name in _SETTINGS])}
            for name in ("centroids", "weights", "codes", "residuals"):
                self.digests[name] = _digest(_numpy(getattr(self, name)))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else error
            raise Unusable(f"{index} cannot be read as a ColBERT index: {why}.") from error


def _checkpoint(named: str | None, config: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The folder of a checkpoint that runs nothing of its own, and its files' digests; nothing is downloaded."""
    name = str(named or config.get("checkpoint"))
    folder = os.path.abspath(name)
    if not os.path.isdir(folder):
        try:
            from huggingface_hub import snapshot_download

            folder = str(snapshot_download(name, local_files_only=True))
        except Exception as error:
            raise Unusable(f"The checkpoint {name} is no folder, nor in the Hub's cache: give --checkpoint.") from error
    for path in (os.path.join(folder, file) for file in ("config.json", "tokenizer_config.json")):
        if os.path.exists(path) and "auto_map" in _json(path):
            raise Unusable(f"{path} has auto_map: the checkpoint wants to run code of its own, which is never done.")
    if not any(file.endswith(".safetensors") for file in os.listdir(folder)):
        raise Unusable(f"{folder} has no .safetensors file: save the checkpoint as safetensors, which holds no code.")
    files = sorted(filter(_CHECKPOINT_FILES.fullmatch, os.listdir(folder)))
    return folder, {file: _hash(file, numpy.fromfile(os.path.join(folder, file), numpy.uint8)) for file in files}


def _load(index: str, folder: str) -> Any:
    """The model, with its `colbert_config`, as colbert-ai's Searcher makes it."""
    from colbert.infra.config import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint
    from colbert.modeling.colbert import ColBERT

    of_index = ColBERTConfig.load_from_index(index)
    # A checkpoint's metadata may name the model that it was trained from, which colbert-ai would look up on the Hub.
    of_index.configure(checkpoint=folder, model_name=folder)
    config = ColBERTConfig.from_existing(ColBERTConfig.load_from_checkpoint(folder), of_index)
    # On a CPU its first model compiles a kernel for a minute; what is computed here does without.
    with patch.object(ColBERT, "loaded_extensions", True, create=True):
        model = Checkpoint(folder, colbert_config=config, verbose=0)
    return model.cuda() if config.total_visible_gpus > 0 else model


def _compute(held: _Held, model: Any, queries: Sequence[str], passages: Sequence[str]) -> dict[str, Any]:
    """Every quantity of `ORDER`, as colbert-ai's searcher and indexer compute it on this device."""
    import torch

    config = model.colbert_config
    place, kind = ("cuda", torch.float16) if config.total_visible_gpus > 0 else ("cpu", torch.float32)
    # A service encodes one query at a time, and an indexer passages in batches.
    asked = [model.queryFromText([query]) for query in queries]
    embeddings, lengths = model.docFromText(list(passages), bsize=config.index_bsize, keep_dims="flatten")[:2]
    with torch.no_grad():
        centroids = held.centroids.to(place, kind)
        scores = torch.stack([centroids @ query[0].to(kind).T for query in asked])
        cells = scores.topk(min(config.ncells or 2, len(centroids)), dim=1).indices.flatten(1).sort().values
        rows = _decompressed(held, centroids, config.nbits)
        found = [
            torch.stack([_maxsim(query[0], among, sizes, config) for query in asked])
            for among, sizes in ((embeddings.to(place), lengths), (rows, held.lengths))
        ]
    made = {
        "query_tokens": torch.cat([model.query_tokenizer.tensorize([query])[0] for query in queries]).int(),
        "passage_tokens": model.doc_tokenizer.tensorize(list(passages))[0].int(),
        "query_embeddings": torch.cat(asked), "passage_embeddings": embeddings, "centroid_scores": scores,
        "cells": cells.int(), "decompressed_rows": rows, "maxsim": found[0], "maxsim_of_index": found[1],
    }  # fmt: skip
    return {name: _numpy(made[name]) for name in ORDER}


def _decompressed(held: _Held, centroids: Any, nbits: int) -> Any:
    """Embeddings of the index's first passages: what colbert-ai's `ResidualCodec.decompress` makes of the same rows.

    A byte of residuals holds bucket numbers, the first in its highest bits, and each number's bits the other way round.
    """
    import torch

    bits = (torch.arange(256).unsqueeze(1) >> torch.arange(7, -1, -1)) & 1
    buckets = (bits.view(256, 8 // nbits, nbits) << torch.arange(nbits)).sum(-1)
    table = held.weights.to(centroids.device, centroids.dtype)[buckets.to(centroids.device)]
    codes, residuals = (part.long().to(centroids.device) for part in (held.codes, held.residuals))
    rows = centroids[codes].add_(table[residuals].view(len(codes), -1))
    return torch.nn.functional.normalize(rows, p=2, dim=-1)


def _maxsim(query: Any, rows: Any, lengths: Sequence[int], config: Any) -> Any:
    """The scores of passages for a query: one product, and colbert-ai's own reduction of it."""
    from colbert.modeling.colbert import colbert_score_reduce
    from torch.nn.utils.rnn import pad_sequence

    parts = (rows @ query.to(rows.device, rows.dtype).T).split(list(lengths))
    mask = pad_sequence([part.new_ones(len(part), 1) for part in parts], batch_first=True)
    return colbert_score_reduce(pad_sequence(list(parts), batch_first=True), mask, config)


def _numpy(tensor: Any) -> Any:
    """A tensor's values on the host; NumPy has no bfloat16, whose every value is a float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _environment(model: Any) -> dict[str, str]:
    """What computes here, flat: packages, interpreter, device, and settings by which a kernel is chosen."""
    import torch

    about = {"python": f"{sys.implementation.name} {sys.version.split()[0]}", "machine": os.uname().machine}
    for one in importlib.metadata.distributions():
        if one.metadata["Name"]:
            about[f"package {re.sub(r'[-_.]+', '-', one.metadata['Name']).lower()}"] = str(one.version)
    if model.device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(0)
        about["capability"] = ".".join(map(str, torch.cuda.get_device_capability(0)))
    else:
        with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
            about["device"] = next(line for line in file if line.startswith("model name")).partition(":")[2].strip()
        with contextlib.suppress(AttributeError):
            about["capability"] = torch.backends.cpu.get_cpu_capability()
    kinds = {type(one).__name__ for one in model.modules() if "attention" in type(one).__name__.lower()}
    return {
        **about,
        **{f"variable {name}": value for name, value in os.environ.items() if _VARIABLES.fullmatch(name)},
        "threads": str(torch.get_num_threads()),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "float32 products": f"{torch.get_float32_matmul_precision()}, TF32 {torch.backends.cuda.matmul.allow_tf32}",
        "attention": ", ".join(sorted(kinds)),
        "weights": ", ".join(sorted({str(one.dtype) for one in model.parameters()})),
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what libraries say while they load off the console; what goes wrong is an error all the same."""
    with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere:
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def main(argv: Sequence[str] | None = None) -> int:
    """Take or check a fingerprint; docs/fingerprint.md has the exit codes."""
    parser = argparse.ArgumentParser(prog="fingerprint.py", description="What an environment computes for an index.")
    parser.add_argument("action", choices=["take", "check"])
    parser.add_argument("index", help="the folder of a ColBERT index")
    parser.add_argument("--checkpoint", help="a folder (default: the one that the index names)")
    parser.add_argument("--fingerprint", help=f"the file (default: {FILE} in the index's folder)")
    parser.add_argument("--rankings", action="store_true", help="exit with 0 where the rankings are the same, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(argv)
    path = asked.fingerprint or os.path.join(asked.index, FILE)
    try:
        if asked.action == "take":
            if os.path.isdir(asked.index):  # or else that is what is wrong
                require_place(path)
            record = take(asked.index, asked.checkpoint)
            write(record, path)
            told: dict[str, Any] = {"fingerprint": path, "bytes": os.path.getsize(path), **record["environment"]}
            by = f"torch {told.get('package torch')} on {told.get('device', told['machine'])}"
            lines, code = [f"{path}: {told['bytes']:,} bytes, taken with {by}."], 0
        else:
            found = check(asked.index, asked.checkpoint, path)
            told, lines = found.to_json(), list(found.lines())
            code = int(found.answer != "same bits" and not (asked.rankings and found.answer == "same rankings"))
    except Unusable as error:
        print(f"fingerprint: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"fingerprint: it cannot be computed here: {type(error).__name__}: {error}", file=sys.stderr)
        return 3
    print(json.dumps(told, indent=1) if asked.json else "\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
