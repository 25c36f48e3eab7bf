"""Reads NumPy's `.npy` files as mapped tensors: FastPlaid and PyLate write the tensors of an index so.

Input is untrusted: no object is unpickled, and every size is checked against the file before it is used.
"""

from __future__ import annotations

import io
import math
import threading
import tokenize
import warnings
from pathlib import Path

import numpy as np

from harness.errors import UnreadableTensor
from harness.files import map_file
from harness.tensors.mapped import check_shape, give_back
from harness.tensors.tensor import Tensor
from harness.words import said

_HEADER_LIMIT = 10_000  # characters; that of an array without fields has some hundred
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# NumPy parses a header with `ast`, and Python 3.11 ends that with a SystemError where another thread does so meanwhile,
# which garbage that is collected between gives the occasion for: https://github.com/python/cpython/issues/106905.
_parser = threading.Lock()


def read_npy(path: Path) -> Tensor:
    """Map the array of a `.npy` file; one that is stored column by column, or big-endian, is copied.

    Raises:
        UnreadableTensor: the file is missing, is no such file, is truncated or too long, or holds objects, text or
            records.
    """
    raw = map_file(path)
    start = io.BytesIO(raw[: _HEADER_LIMIT + 64].tobytes())
    try:
        version = np.lib.format.read_magic(start)
        if version not in _READERS:
            raise ValueError(f"version {version[0]}.{version[1]} of the format is for records")
        with _parser, warnings.catch_warnings():  # of headers that Python 2 wrote, which are read all the same
            warnings.simplefilter("ignore")
            shape, by_column, dtype = _READERS[version](start, max_header_size=_HEADER_LIMIT)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise UnreadableTensor(f"{path} is not a .npy file: {said(error)}.") from error
    if dtype.kind not in "biufc":
        raise UnreadableTensor(f"{path} holds {dtype} where numbers are expected.")
    give_back(raw)  # the header's pages, with all that came along: of many files that is much
    shape = check_shape(shape, str(path))
    data, size = raw[start.tell() :], math.prod(shape) * dtype.itemsize
    if data.size != size:
        raise UnreadableTensor(
            f"{path} is {'truncated' if data.size < size else 'too long'}: it has {data.size} bytes of numbers, "
            f"and its header counts {size}."
        )
    if size == 0:
        return Tensor.of(np.empty(shape, dtype.newbyteorder("<")))
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
    return Tensor.of(array.astype(dtype.newbyteorder("<"), copy=False))
