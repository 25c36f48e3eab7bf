"""torch 2.6.0 and 2.7.0 give different results for aten.native_dropout.default on the same input.

Found in colbert-ai's training: step 'forward', module model.bert.encoder.layer.0.attention.output.dropout, from torch.nn.functional.dropout: 104,197 of 577,536 elements, at most 5.34 (1,368 ULP).
The input is cut to a part on which both versions give the bits that they give on the whole.
Needs torch and forward_aten_native_dropout_default.bin beside this file. Run it under both versions.
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

torch.set_rng_state(tensor(1536, torch.uint8, (5056,)).cpu())
torch.cuda.set_rng_state(tensor(6592, torch.uint8, (16,)).cpu())

with torch.inference_mode():
    result = torch.ops.aten.native_dropout.default(tensor(768, torch.float16, (1, 1, 384)), 0.1, True)
result = [one for one in ([result] if torch.is_tensor(result) else result) if one is not None][0]
result = result.cpu().contiguous()
expected = tensor(0, torch.float16, (1, 1, 384)).cpu()
bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
differs = result.view(bits) != expected.view(bits)
count = f"{int(differs.sum())} of {differs.numel()} elements"
print(f"torch {torch.__version__} ({libraries}): {count} differ from torch 2.6.0's")
if differs.any():
    where = tuple(differs.nonzero()[0].tolist())
    apart = (result.double() - expected.double()).abs().max().item()
    print(f"at most {apart:.4g} apart; at {where} {result[where].item()!r}, not {expected[where].item()!r}")
