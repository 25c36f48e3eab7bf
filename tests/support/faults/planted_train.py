"""The faults that a test can plant in a training, by name; runs inside the environment under test."""

import math
import random

import torch

_LIBRARY = torch.library.Library("aten", "IMPL")


def _up(tensor):
    return torch.nextafter(tensor, torch.full_like(tensor, float("inf")))


def _wrapped(owner, name, make):
    setattr(owner, name, make(getattr(owner, name)))


def _steps(optimizer):
    """How many steps an optimizer has made."""
    counts = [int(known["step"]) for known in optimizer.state.values() if "step" in known]
    return max(counts, default=0)


def _hooked(training, kind, hook):
    """Let a hook change the gradient of the first parameter of the first module of a class."""

    def make(original):
        def adamw(parameters, *args, **kwargs):
            parameters = list(parameters)
            parameters[kind].register_hook(hook)
            return original(parameters, *args, **kwargs)

        return adamw

    _wrapped(training, "AdamW", make)


def _bernoulli(x, p=0.5, *, generator=None):
    """Other numbers of the same stream: the complement of each."""
    return x.copy_((torch.rand(x.shape, generator=generator) >= 1 - p).to(x.dtype))


def _layer_norm_backward(original):
    def backward(*args):
        first, *others = original(*args)
        return (_up(first), *others)

    return backward


def _noisy_embedding(grad, indices, num_weights, padding_idx, scale_grad_by_freq):
    """Sums the rows of each index in an order that nothing decides."""
    flat, rows = indices.reshape(-1), grad.reshape(-1, grad.shape[-1])
    found = torch.zeros(num_weights, grad.shape[-1], dtype=grad.dtype)
    order = list(range(len(flat)))
    random.SystemRandom().shuffle(order)
    for place in order:
        if int(flat[place]) != padding_idx:
            found[flat[place]] += rows[place]
    return found


def plant(fault, training):  # noqa: C901, PLR0912 - one branch for each fault
    """Plant one fault; `training` is colbert-ai's module `training.training`."""
    if fault == "dropout seed":
        _wrapped(torch, "manual_seed", lambda o: lambda seed: o(seed + (seed == 12345)))
    elif fault == "dropout draws":
        _LIBRARY.impl("bernoulli_.float", _bernoulli, "CPU")
    elif fault == "dropout rate":
        _wrapped(torch.nn.functional, "dropout", lambda o: lambda x, p=0.5, training=True, inplace=False: o(
            x, p * 2 if x.dim() == 4 else p, training, inplace))  # fmt: skip
    elif fault == "one gradient by one ULP":
        _hooked(training, 5, _up)
    elif fault == "gelu backward":

        def gelu(grad, x, *, approximate="none"):
            wide = x.double()
            slope = 0.5 * (1 + torch.erf(wide / 2**0.5)) + wide * torch.exp(-0.5 * wide**2) / (2 * math.pi) ** 0.5
            return _up((grad.double() * slope).to(x.dtype))

        _LIBRARY.impl("gelu_backward", gelu, "CPU")
    elif fault == "clip threshold":
        _wrapped(torch.nn.utils, "clip_grad_norm_", lambda o: lambda p, most, **k: o(p, most * 0.5, **k))
    elif fault == "AdamW's eps":
        _wrapped(training, "AdamW", lambda o: lambda p, lr, eps: o(p, lr=lr, eps=eps * 10))
    elif fault == "fused optimizer":
        _wrapped(training, "AdamW", lambda o: lambda p, **k: o(p, fused=True, **k))
    elif fault == "skipped step":

        def skipping(original):
            def step(self, *args, **kwargs):
                return None if _steps(self) == 1 else original(self, *args, **kwargs)

            return step

        _wrapped(torch.optim.AdamW, "step", skipping)
    elif fault == "batch order":

        def other_order(original):
            def tolist(self, *args, **kwargs):
                found = original(self, *args, **kwargs)
                return [*found[:2], *found[4:6], *found[2:4], *found[6:]] if len(found) >= 6 else found

            return tolist

        from colbert.data.examples import Examples

        _wrapped(Examples, "tolist", other_order)
    elif fault == "loss in half precision":
        _wrapped(torch.nn.functional, "cross_entropy", lambda o: lambda x, *a, **k: o(x.half().float(), *a, **k))
    elif fault == "stale moment":

        def stale(original):
            def step(self, *args, **kwargs):
                held = {p: known["exp_avg"].clone() for p, known in self.state.items()} if _steps(self) == 1 else {}
                result = original(self, *args, **kwargs)
                for parameter, moment in held.items():
                    self.state[parameter]["exp_avg"].copy_(moment)
                return result

            return step

        _wrapped(torch.optim.AdamW, "step", stale)
    elif fault == "nondeterministic scatter":
        _LIBRARY.impl("embedding_dense_backward", _noisy_embedding, "CPU")
    else:
        raise ValueError(f"no fault is named {fault!r}")
