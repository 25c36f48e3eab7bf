"""torch 2.7.1 and 2.8.0 give different results for aten.nll_loss_forward.default on the same input.

Found in colbert-ai's training: step 'loss', from torch.nn.functional.cross_entropy: 1 of 1 elements, at most 5.82e-11 (1 ULP).
The input is the whole of that call's.
Needs torch and loss_aten_nll_loss_forward_default.bin beside this file. Run it under both versions.
"""
import os
from importlib.metadata import distributions

import torch

torch.set_num_threads(2)
with open(os.path.splitext(os.path.abspath(__file__))[0] + ".bin", "rb") as file:
    data = bytearray(file.read())
cublas = [f"{d.name} {d.version}" for d in distributions() if str(d.name).startswith("nvidia-cublas")]
own = [one for one in cublas if one.split()[1].split(".")[0] == str(torch.version.cuda).split(".")[0]]
libraries = ", ".join([f"CUDA {torch.version.cuda}", *own])


def tensor(offset, dtype, shape, stride=None):
    count = torch.Size(shape).numel()
    held = torch.frombuffer(data, dtype=dtype, count=count, offset=offset).reshape(shape).to("cuda")
    return held if stride is None else torch.empty_strided(shape, stride, dtype=dtype, device=held.device).copy_(held)


with torch.inference_mode():
    result = torch.ops.aten.nll_loss_forward.default(tensor(64, torch.float32, (16, 2)), tensor(192, torch.int64, (16,)), None, 1, -100)
result = [one for one in ([result] if torch.is_tensor(result) else result) if one is not None][0]
result = result.cpu().contiguous()
expected = tensor(0, torch.float32, ()).cpu()
bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
differs = result.view(bits) != expected.view(bits)
count = f"{int(differs.sum())} of {differs.numel()} elements"
print(f"torch {torch.__version__} ({libraries}): {count} differ from torch 2.7.1's")
if differs.any():
    where = tuple(differs.nonzero()[0].tolist())
    apart = (result.double() - expected.double()).abs().max().item()
    print(f"at most {apart:.4g} apart; at {where} {result[where].item()!r}, not {expected[where].item()!r}")
