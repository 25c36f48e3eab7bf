"""One copy of each tensor, by its digest, whatever cell it came from; what a cell's record says of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from harness.artifacts.kind import JobKind
from harness.errors import UnreadableTensor
from harness.files import sync_file
from harness.store.cell import Artifact, Cell
from harness.tensors.safetensors import read_safetensors, write_safetensors
from harness.tensors.tensor import Tensor

TENSOR = "tensor"
"""The name of the tensor in an object's file."""


class Objects:
    """Tensors below `root`; making one touches nothing on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.verified: set[str] = set()
        """Digests of tensors whose bytes were compared with them."""
        self.small: dict[str, Tensor] = {}
        """Some of these tensors themselves, by digest: hundreds of repeats share those of a training."""

    def object_path(self, digest: str) -> Path:
        """Where a tensor is, or would be."""
        return self.root / "objects" / digest[:2] / f"{digest}.safetensors"

    def load(self, artifact: Artifact) -> Tensor:
        """Map a stored tensor.

        Raises:
            UnreadableTensor: only the digest was kept, or the file is missing or damaged.
        """
        if not artifact.stored:
            raise UnreadableTensor("only the digest of this artifact was kept; index with `--capture full` to keep it")
        tensors = read_safetensors(self.object_path(artifact.digest))
        if TENSOR not in tensors:
            raise UnreadableTensor(f"{self.object_path(artifact.digest)}: holds no tensor named {TENSOR!r}")
        return tensors[TENSOR]

    def put_object(self, tensor: Tensor, digest: str, move: Path | None = None) -> None:
        """Keep a tensor; `move` is a file that already holds it, on the same filesystem, and is renamed into place."""
        path = self.object_path(digest)
        if path.exists() and self._holds(digest, tensor.dtype, tensor.shape):
            return
        new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        if new:
            sync_file(path.parent.parent)
        if move is not None:
            sync_file(move)
            move.replace(path)
            sync_file(path.parent)
            return
        handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        os.close(handle)
        try:
            write_safetensors(name, {TENSOR: tensor})
            sync_file(Path(name))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_file(path.parent)

    def missing(self, cell: Cell, known: dict[str, bool] | None = None) -> list[str]:
        """Artifacts of a cell whose tensors should be in the store and are not, or not in full length.

        Args:
            cell: of this store.
            known: what was found about digests before, for many cells that share tensors; filled in.
        """
        known = {} if known is None else known
        for artifact in cell.artifacts.values():
            if artifact.stored and artifact.digest not in known:
                known[artifact.digest] = self._holds(artifact.digest, artifact.dtype, artifact.shape)
        return [name for name, artifact in cell.artifacts.items() if artifact.stored and not known[artifact.digest]]

    def _holds(self, digest: str, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether an object is there, whole by its length; its bytes are not read."""
        try:
            tensor = read_safetensors(self.object_path(digest))[TENSOR]
        except (UnreadableTensor, OSError, KeyError):
            return False
        return (tensor.dtype, tensor.shape) == (dtype, shape)

    def take_digests(self, kind: JobKind, intermediates: Path, capture: str, taken: dict[str, Artifact]) -> None:
        """Take what a job under way has recorded by now and only the digest is kept of, and delete it.

        What cannot be read stays where it is, for `ingest` to say so. Nothing is written to the store.

        Args:
            kind: as `ingest` has it.
            intermediates: the same.
            capture: the same.
            taken: gets the artifacts by name.
        """
        for path in intermediates.glob("*.safetensors"):
            if not _is_kept(kind, path.stem, capture):
                with suppress(UnreadableTensor, KeyError, OSError):
                    taken[path.stem] = self._take(kind, path, capture)
                    path.unlink()

    def ingest(
        self,
        kind: JobKind,
        result: Iterable[tuple[str, Tensor]],
        intermediates: Path,
        capture: str,
        taken: Mapping[str, Artifact] | None = None,
    ) -> dict[str, Artifact]:
        """Take a finished job's artifacts into the store, each digested once.

        Args:
            kind: of the job.
            result: what the job left in files of another form (`JobKind.result`).
            intermediates: `NAME.safetensors` files, each with one tensor named `tensor`; moved when kept.
            capture: `digests` keeps intermediates as digest, dtype and shape only, unless they are declared small;
                final tensors are always kept.
            taken: what `take_digests` had of it while the job ran.

        Raises:
            UnreadableTensor: a file of the job cannot be read; the job's output is invalid then.
        """
        artifacts = dict(taken or {})
        for name, tensor in result:
            artifacts[name] = self.keep_tensor(tensor, kind.role(name) or "value", stored=True)
        for path in sorted(intermediates.glob("*.safetensors")):
            artifacts[path.stem] = self._take(kind, path, capture)
        return {name: artifacts[name] for name in kind.in_order(artifacts)}

    def _take(self, kind: JobKind, path: Path, capture: str) -> Artifact:
        """Take one file of a job."""
        tensor, name = read_safetensors(path)[TENSOR], path.stem
        role = kind.role(name) or "intermediate"
        return self.keep_tensor(tensor, role, stored=_is_kept(kind, name, capture), move=path)

    def keep_tensor(self, tensor: Tensor, kind: str, *, stored: bool, move: Path | None = None) -> Artifact:
        """Take one tensor, or its digest alone, and return what a cell's record says of it; `move` is a file of it."""
        digest, nans = tensor.digest_and_nans()
        if stored:
            self.put_object(tensor, digest, move)
        return Artifact(digest, tensor.dtype, tensor.shape, kind, stored, nans)


def _is_kept(kind: JobKind, name: str, capture: str) -> bool:
    """Whether a job's tensor is kept, and not only its digest."""
    known = kind.known(name)
    return capture == "full" or kind.role(name) == "final" or (known is not None and known.small)
