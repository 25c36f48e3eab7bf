"""Reading what `torch.save` wrote, without torch and without running anything in it."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UnreadableTensor
from harness.files import map_file
from harness.tensors.archive import Archive, Storage
from harness.tensors.mapped import give_back, view_bytes
from harness.tensors.tensor import Tensor
from harness.tensors.unpickle import Interpreter, Name

_DEPTH_LIMIT = 64


def read_pt(path: str | Path) -> object:
    """Read what `torch.save` wrote, as nested dicts, lists, tuples and scalars with `Tensor` leaves.

    Nothing in the file is executed: the pickle is interpreted by `harness.tensors.unpickle`, which knows torch's
    tensors and plain containers and refuses every other name.

    Raises:
        UnreadableTensor: the file is missing, truncated, in the format of torch before 1.6, holds something else, or
            is one that torch would refuse or might understand in another way.
    """
    path = Path(path)
    raw = map_file(path)
    archive = Archive(path, raw)
    try:
        tree = Interpreter(path, archive).run(archive.pickle())
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnreadableTensor(f"{path} holds a damaged pickle ({type(error).__name__}: {error}).") from error
    give_back(raw)  # what was read of it, with all that came along: of many files that is much
    return _plain(path, tree, swapped=archive.swapped)


def _plain(path: Path, tree: object, *, swapped: bool) -> object:
    """Check the depth of a result and turn bare storages into one-dimensional tensors."""
    done: dict[int, object] = {}  # each container once, so that a small pickle cannot unfold into a big tree

    def visit(node: object, depth: int) -> object:
        if depth > _DEPTH_LIMIT:
            raise UnreadableTensor(f"{path} nests its containers more than {_DEPTH_LIMIT} deep, or in a circle.")
        if isinstance(node, Storage):
            shape = (node.raw.size // node.dtype.itemsize,)
            if swapped and node.dtype.itemsize > 1:
                raise UnreadableTensor(f"{path} holds big-endian numbers that belong to no tensor.")
            return Tensor(node.dtype.name, shape, view_bytes(node.raw, node.dtype, shape), node.check)
        if isinstance(node, Name):
            if node.kind != "dtype":
                raise UnreadableTensor(f"{path} holds the {node.kind} {node.name} where a value is expected.")
            return node.name
        if not isinstance(node, (list, tuple, dict)):
            return node
        if id(node) not in done:
            if isinstance(node, dict):
                done[id(node)] = {key: visit(value, depth + 1) for key, value in node.items()}
            else:
                done[id(node)] = type(node)(visit(item, depth + 1) for item in node)
        return done[id(node)]

    return visit(tree, 0)
