"""torch 1.13.1 and 2.0.0 give different results for aten.addmm.default on the same input.

Found in colbert-ai's indexer: step 'encode', module model.bert.pooler.dense, from torch.nn.functional.linear: 10,750 of 12,288 elements, at most 1.19e-07 (16384 ULP).
The input is cut to a part on which they differ as well, though not by the same bits as on the whole.
Needs torch and encode_aten_addmm_default.bin beside this file. Run it under both versions.
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
    result = torch.ops.aten.addmm.default(tensor(6144, torch.float32, (384,)), tensor(7680, torch.float32, (4, 384)), tensor(13824, torch.float32, (384, 384), (1, 384)))
result = (result if torch.is_tensor(result) else result[0]).cpu().contiguous()
expected = tensor(0, torch.float32, (4, 384)).cpu()
bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
differs = result.view(bits) != expected.view(bits)
count = f"{int(differs.sum())} of {differs.numel()} elements"
print(f"torch {torch.__version__}: {count} differ from torch 1.13.1's")
if differs.any():
    where = tuple(differs.nonzero()[0].tolist())
    apart = (result.double() - expected.double()).abs().max().item()
    print(f"at most {apart:.4g} apart; at {where} {result[where].item()!r}, not {expected[where].item()!r}")
