"""torch 2.7.1 and 2.8.0 give different results for aten.linalg_vector_norm.default on the same input.

Found in colbert-ai's training: step 'forward', from torch.nn.functional.normalize: 21 of 304 elements, at most 9.54e-07 (1 ULP).
The input is the whole of that call's.
Needs torch and forward_aten_linalg_vector_norm_default.bin beside this file. Run it under both versions.
"""
import os

import torch

torch.set_num_threads(2)
with open(os.path.splitext(os.path.abspath(__file__))[0] + ".bin", "rb") as file:
    data = bytearray(file.read())


def tensor(offset, dtype, shape, stride=None):
    count = torch.Size(shape).numel()
    found = torch.frombuffer(data, dtype=dtype, count=count, offset=offset).reshape(shape).to("cpu")
    if stride is None:
        return found
    return torch.empty_strided(shape, stride, dtype=dtype, device=found.device).copy_(found)


with torch.inference_mode():
    result = torch.ops.aten.linalg_vector_norm.default(tensor(1216, torch.float32, (8, 38, 96)), 2, [2], True)
result = [one for one in ([result] if torch.is_tensor(result) else result) if one is not None][0]
result = result.cpu().contiguous()
expected = tensor(0, torch.float32, (8, 38, 1)).cpu()
bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
differs = result.view(bits) != expected.view(bits)
count = f"{int(differs.sum())} of {differs.numel()} elements"
print(f"torch {torch.__version__}: {count} differ from torch 2.7.1's")
if differs.any():
    where = tuple(differs.nonzero()[0].tolist())
    apart = (result.double() - expected.double()).abs().max().item()
    print(f"at most {apart:.4g} apart; at {where} {result[where].item()!r}, not {expected[where].item()!r}")
