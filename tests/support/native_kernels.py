# mypy: ignore-errors
"""Runs in an environment under test: colbert-ai's own kernels, compiled from its sources, against the replacements.

`PYTHON native_kernels.py` prints one JSON object, kernel to the number of inputs that were compared; it ends with an
AssertionError at the first bit that differs. What is compiled goes to TORCH_EXTENSIONS_DIR.
"""

import json
import re
import sys
from pathlib import Path

import colbert
import numpy
import torch
from colbert.indexing.codecs.residual import ResidualCodec
from colbert.infra import ColBERTConfig
from colbert.modeling.colbert import ColBERT
from colbert.search.index_storage import IndexScorer
from colbert.search.strided_tensor import StridedTensor
from torch.utils.cpp_extension import load_inline

from harness.worker import kernels

INFINITY = float("inf")


def same(ours, theirs):
    """Whether two tensors have the same bits."""
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), (ours.dtype, ours.shape, theirs.shape)
    bits = [numpy.ascontiguousarray(tensor.numpy()).tobytes() for tensor in (ours, theirs)]
    assert bits[0] == bits[1], (ours, theirs)


def lengths_of(draw, count, longest):
    """Segments' lengths, some of them 0 or at a bound of the replacement's blocks."""
    lengths = torch.from_numpy(draw.integers(0, longest + 1, count))
    special = torch.tensor([0, 1, 15, 16, 17, 31, 32, 33, 48])
    return torch.where(torch.rand(count) < 0.3, special[torch.randint(len(special), (count,))], lengths)


def values(draw, *shape):
    """Scores with ties, and with zeros of both signs."""
    made = torch.from_numpy(draw.normal(size=shape).astype(numpy.float32))
    made[torch.rand(shape) < 0.2] = 0.0
    made[torch.rand(shape) < 0.1] = -0.0
    return made.round(decimals=1) if draw.random() < 0.5 else made


def maxsim(draw):
    """MaxSim: ragged passages, only negative scores, zeros of both signs, infinities, NaN, none."""
    for round_ in range(120):
        lengths = lengths_of(draw, int(draw.integers(1, 60)), int(draw.choice([3, 20, 40, 300])))
        scores = values(draw, int(lengths.sum()), int(draw.choice([1, 7, 32, 128])))
        if round_ % 5 == 1:
            scores = -scores.abs()
        for fraction, special in ((0.02, INFINITY), (0.02, -INFINITY), (0.02, float("nan"))):
            if round_ % 5 == 2:
                scores[torch.rand(scores.shape) < fraction] = special
        yield (scores, lengths)
    yield (torch.zeros(0, 4), torch.zeros(3, dtype=torch.int64))
    yield (torch.full((40, 4), -0.0), torch.tensor([40]))
    # More passages than the replacement sums at once, and one or none left over.
    for width in (1, 7, 8, 32, 128):
        for passages in (255, 256, 257, 1100):
            lengths = lengths_of(draw, passages, 5)
            yield (values(draw, int(lengths.sum()), width), lengths)


def lookup(draw):
    """Looking segments up: every dtype of the kernel, rows and single values, empty segments, repeats, none."""
    for dtype in (torch.uint8, torch.int32, torch.int64, torch.float32, torch.float16):
        for shape in ((), (3,)):
            for count in (0, 1, 40):
                lengths = lengths_of(draw, 50, 40)
                tensor = torch.from_numpy(draw.integers(0, 200, (int(lengths.sum()) + 40, *shape))).to(dtype)
                pids = torch.from_numpy(draw.integers(0, 50, count))
                offsets = lengths.cumsum(0) - lengths
                yield (tensor, pids, lengths[pids], offsets[pids])


def index_of(draw, passages, longest, centroids):
    """Lengths, offsets (one more than passages, as colbert-ai has them) and codes of an index."""
    doclens = lengths_of(draw, passages, longest)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), doclens.cumsum(0)))
    codes = torch.from_numpy(draw.integers(0, centroids, int(doclens.sum()) + 512)).int()
    return doclens, offsets, codes


def filtering(draw):
    """The filter: ties (few distinct scores), no centroid kept, all kept, fewer candidates than places, NaN, none."""
    for round_ in range(120):
        passages, centroids = int(draw.integers(1, 400)), int(draw.choice([4, 64, 500]))
        doclens, offsets, codes = index_of(draw, passages, int(draw.choice([5, 60])), centroids)
        pids = torch.from_numpy(numpy.sort(draw.permutation(passages)[: int(draw.integers(1, passages + 1))])).int()
        scores = values(draw, centroids, int(draw.choice([1, 32, 128])))
        if round_ % 4 == 1:
            scores = torch.from_numpy(draw.integers(-1, 2, tuple(scores.shape)).astype(numpy.float32))
        if round_ % 7 == 1:
            scores[torch.rand(scores.shape) < 0.02] = float("nan")
        kept = torch.rand(centroids) < [0.0, 0.1, 0.5, 1.0][round_ % 4]
        yield (pids, scores, codes, doclens, offsets, kept, int(draw.choice([4, 5, 37, 256, 4096])))
    yield (torch.zeros(0, dtype=torch.int32), scores, codes, doclens, offsets, kept, 16)
    # More embeddings than are worked on at once.
    doclens, offsets, codes = index_of(draw, 4000, 120, 500)
    yield (torch.arange(4000).int(), values(draw, 500, 8), codes, doclens, offsets, torch.rand(500) < 0.2, 1024)


def codec_of(draw, dim, nbits, centroids):
    """colbert-ai's codec on the CPU, with weights of both signs and a zero."""
    weights = torch.from_numpy(numpy.sort(draw.normal(size=2**nbits)).astype(numpy.float32))
    weights[0] = -0.0
    made = torch.from_numpy(draw.normal(size=(centroids, dim)).astype(numpy.float32)).half()
    made[0] = -0.0
    config = ColBERTConfig(dim=dim, nbits=nbits)
    return ResidualCodec(config, made, torch.tensor(0.1), weights[1:].clone(), weights)


def decompression(draw):
    """Decompression: each number of bits, repeated and empty passages, none."""
    for nbits in (1, 2, 4, 8):
        for dim in (96, 128):
            codec = codec_of(draw, dim, nbits, 40)
            doclens, offsets, codes = index_of(draw, 80, 60, 40)
            residuals = torch.from_numpy(draw.integers(0, 256, (len(codes), dim * nbits // 8)).astype(numpy.uint8))
            for pids in (draw.permutation(80)[:50], draw.integers(0, 80, 30), numpy.array([7]), numpy.zeros(0)):
                yield (
                    torch.from_numpy(pids).int(), doclens, offsets, codec.bucket_weights, codec.reversed_bit_map,
                    codec.decompression_lookup_table, residuals, codes, codec.centroids, dim, nbits,
                )  # fmt: skip


def halves(draw):
    """Decompression on a GPU: the same in float16, with sums that are rounded, that overflow and that are subnormal."""
    for nbits in (1, 2, 4, 8):
        for dim in (96, 128):
            for scale in (1.0, 1e-5, 4e4):
                codec = codec_of(draw, dim, nbits, 40)
                codes = torch.from_numpy(draw.integers(0, 40, 200)).int()
                residuals = torch.from_numpy(draw.integers(0, 256, (200, dim * nbits // 8)).astype(numpy.uint8))
                weights, centroids = ((t * scale).half() for t in (codec.bucket_weights, codec.centroids))
                yield (
                    residuals, weights, codec.reversed_bit_map, codec.decompression_lookup_table, codes, centroids,
                    dim, nbits,
                )  # fmt: skip


def on_the_host():
    """`decompress_residuals.cu` for the CPU: its own text, with a loop for each block and thread that it would launch.

    The kernel adds with c10::Half, whose operators are the same text for the host and for a GPU.
    """
    path = Path(colbert.__file__).parent / "indexing" / "codecs" / "decompress_residuals.cu"
    text = re.sub(r"#include <cuda\w*\.h>\n", "", path.read_text())
    for there, here in ((".device(torch::kCUDA, 0)", ""), (".data<", ".data_ptr<"), ("Restrict", "Default")):
        text = text.replace(there, here)
    launch = re.compile(r"decompress_residuals_kernel<<<blocks, threads>>>\((.*?)\);", re.DOTALL)
    loops = r"for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) decompress_residuals_kernel(\1);"  # noqa: E501
    text, found = launch.subn(loops, text)
    assert found == 1, "the kernel is not launched as it was"
    head = "#include <torch/extension.h>\n#define __global__ static\nstatic struct { int x; } blockIdx, threadIdx;\n"
    return load_inline("decompress_residuals_cuda_on_the_host", head + text, functions=["decompress_residuals_cuda"])


def main():
    """Compare everything."""
    torch.manual_seed(7)
    torch.set_num_threads(2)
    for owner in (ColBERT, StridedTensor, IndexScorer):
        owner.try_load_torch_extensions(use_gpu=False)
    counts = {}
    for name, ours, theirs, inputs in (
        ("segmented_maxsim", kernels.segmented_maxsim, ColBERT.segmented_maxsim, maxsim),
        ("segmented_lookup", kernels.segmented_lookup, StridedTensor.segmented_lookup, lookup),
        ("filter_pids", kernels.filter_pids, IndexScorer.filter_pids, filtering),
        ("decompress_residuals", kernels.decompress_residuals, IndexScorer.decompress_residuals, decompression),
        (
            "decompress_residuals_on_gpu", kernels.decompress_residuals_on_gpu,
            on_the_host().decompress_residuals_cuda, halves,
        ),
    ):  # fmt: skip
        counts[name] = 0
        for arguments in inputs(numpy.random.default_rng(7)):
            same(ours(*arguments), theirs(*arguments))
            counts[name] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    sys.exit(main())
