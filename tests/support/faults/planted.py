"""The faults that a test can plant, by name; runs inside the environment under test."""

import numpy
import torch

_LIBRARY = torch.library.Library("aten", "IMPL")


def _up(tensor):
    return torch.nextafter(tensor, torch.full_like(tensor, float("inf")))


def _kernel(name, function):
    _LIBRARY.impl(name, function, "CPU")


def _module(kind, chosen, change):
    """Change the output of the modules of one class that `chosen` picks by their shape and their number."""
    original, seen = kind.forward, []

    def forward(self, x):
        if self not in seen:
            seen.append(self)
        result = original(self, x)
        return change(result, x) if chosen(self, seen.index(self)) else result

    kind.forward = forward


def _gelu(x, *, approximate="none"):
    wide = x.double()
    return (0.5 * wide * (1 + torch.erf(wide / 2**0.5))).to(x.dtype)


def _softmax(x, dim, half_to_float):
    wide = (x.double() - x.double().amax(dim, keepdim=True)).exp()
    return (wide / wide.sum(dim, keepdim=True)).to(x.dtype)


def _norm(x, order=2, dim=None, keepdim=False, *, dtype=None):
    return x.double().pow(2).sum(dim, keepdim=keepdim).sqrt().to(x.dtype)


def _sort(x, *, stable=None, dim=-1, descending=False):
    """Equal elements in reverse order, as a sort may return them that does not promise to be stable."""
    flipped = x.flip(dim).numpy()
    order = numpy.argsort(-flipped if descending else flipped, axis=dim, kind="stable")
    indices = torch.from_numpy(x.shape[dim] - 1 - order) if x.dim() else torch.zeros((), dtype=torch.int64)
    return x.gather(dim, indices), indices


_DOWN = torch.tensor(1 - 2**-11, dtype=torch.float32)


def _to_copy(x, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None):
    """Conversion, to half with rounding towards zero."""
    if not isinstance(x, torch.Tensor):
        # A number that torch wrapped as a tensor reaches a Python kernel as a number again.
        return torch.full((), x, dtype=dtype, device=device)
    result = torch.empty_like(
        x, dtype=dtype or x.dtype, device=device, memory_format=memory_format or torch.preserve_format
    )
    return result.copy_(x * _DOWN if dtype == torch.float16 and x.dtype == torch.float32 else x)


def _noisy(x):
    """Noise for each element: one factor for all of them would round to the same in one of nine calls."""
    return x * (1 + 1e-6 * torch.from_numpy(numpy.random.default_rng().random(tuple(x.shape), numpy.float32)))


def _noisy_gelu(x, *, approximate="none"):
    return _noisy(_gelu(x))


def _wrapped(owner, name, make):
    original = getattr(owner, name)
    setattr(owner, name, make(original))


def _seeded(original):
    def kmeans(*args, **kwargs):
        import faiss

        known = faiss.Kmeans

        def other(*a, **k):
            return known(*a, **{**k, "seed": 321})

        faiss.Kmeans = other
        try:
            return original(*args, **kwargs)
        finally:
            faiss.Kmeans = known

    return kmeans


def _reversed_ties(original):
    def sort(self, *args, **kwargs):
        if args or kwargs or self.dim() != 1 or self.dtype != torch.int64:
            return original(self, *args, **kwargs)
        values, indices = original(self.flip(0))
        return torch.return_types.sort((values, self.numel() - 1 - indices))

    return sort


_MORE = ("return_inverse", "return_counts", "dim")


def _dropped(original):
    def encode(self, passages):
        return original(self, passages[:-1])

    return encode


def plant(fault, indexer):  # noqa: C901, PLR0912 - one branch for each fault
    """Plant one fault; `indexer` is colbert-ai's module `collection_indexer`."""
    from colbert.indexing.codecs.residual import ResidualCodec

    linear, norm = torch.nn.Linear, torch.nn.LayerNorm
    if fault == "gelu kernel":
        _kernel("gelu", _gelu)
    elif fault == "softmax kernel":
        _kernel("_softmax", _softmax)
    elif fault == "norm kernel":
        _kernel("linalg_vector_norm", _norm)
    elif fault == "nondeterministic kernel":
        _kernel("gelu", _noisy_gelu)
    elif fault == "unstable sort":
        _kernel("sort.stable", _sort)
    elif fault == "half rounds down":
        _kernel("_to_copy", _to_copy)
    elif fault == "one linear by one ULP":
        _module(linear, lambda _m, number: number == 4, lambda y, _x: _up(y))
    elif fault == "the projection by one ULP":
        _module(linear, lambda m, _n: m.out_features == 96, lambda y, _x: _up(y))
    elif fault == "one layer norm by one ULP":
        _module(norm, lambda _m, number: number == 5, lambda y, _x: _up(y))
    elif fault == "depends on batch size":
        _module(linear, lambda _m, number: number == 10, lambda y, x: _up(y) if x.shape[0] != 8 else y)
    elif fault == "nondeterministic":
        _module(linear, lambda _m, number: number == 2, lambda y, _x: _noisy(y))
    elif fault == "unstable sort, patched in Python":
        _wrapped(torch.Tensor, "sort", _reversed_ties)
    elif fault == "k-means seed":
        _wrapped(indexer, "compute_faiss_kmeans", _seeded)
    elif fault == "permuted centroids":
        _wrapped(indexer, "compute_faiss_kmeans", lambda o: lambda *a, **k: o(*a, **k).flip(0).clone())
    elif fault == "normalize":
        _wrapped(torch.nn.functional, "normalize", lambda o: lambda *a, **k: _up(o(*a, **k)))
    elif fault == "dropped passage":
        from colbert.indexing.collection_encoder import CollectionEncoder

        _wrapped(CollectionEncoder, "encode_passages", _dropped)
    elif fault == "sampling seed":
        _wrapped(
            indexer.CollectionIndexer, "_sample_pids", lambda _o: lambda self: set(range(len(self.collection) - 1))
        )
    elif fault == "half rounds down, patched in Python":
        _wrapped(torch.Tensor, "half", lambda o: lambda self: o(self - self.abs() * 2**-11))
    elif fault == "quantile":
        _wrapped(torch.Tensor, "quantile", lambda o: lambda self, q: _up(o(self, q)))
    elif fault == "bucketize right":
        _wrapped(torch, "bucketize", lambda o: lambda x, b: o(x, b - 1e-3))
    elif fault == "last centroid wins":
        _wrapped(ResidualCodec, "compress_into_codes", lambda o: lambda s, e, out_device: (o(s, e, out_device) + 1) % 9)
    elif fault == "packed bits reversed":
        _wrapped(ResidualCodec, "binarize", lambda o: lambda s, r: o(s, r).flip(1).clone())
    elif fault == "pids not unique":
        # torch writes out the defaults of a call when it hands it on, so they must not make a difference.
        _wrapped(
            torch, "unique", lambda o: lambda x, *a, **k: o(x, *a, **k) if a or any(map(k.get, _MORE)) else x.clone()
        )
    elif fault == "average residual":
        _wrapped(torch.Tensor, "mean", lambda o: lambda self, *a, **k: _up(o(self, *a, **k)))
    else:
        raise ValueError(f"no fault is named {fault!r}")
