"""torch 2.6.0 and 2.7.0 give different results for aten.bmm.default on the same input.

Found in colbert-ai's indexer: step 'encode', module model.bert.encoder.layer.0.attention.self, from torch.matmul.
Needs torch, NumPy and encode_aten_bmm_default.npz beside this file. Run it under both versions.
"""
import os
from importlib.metadata import distributions

import numpy as np
import torch

torch.set_num_threads(2)
data = np.load(os.path.splitext(os.path.abspath(__file__))[0] + ".npz")
cublas = [f"{d.name} {d.version}" for d in distributions() if str(d.name).startswith("nvidia-cublas")]
libraries = ", ".join([f"CUDA {torch.version.cuda}", *cublas])


def tensor(name, dtype, stride=None):
    found = torch.from_numpy(data[name]).view(getattr(torch, dtype)).to("cuda")
    if stride is None:
        return found
    return torch.empty_strided(found.shape, stride, dtype=found.dtype, device=found.device).copy_(found)


with torch.inference_mode():
    result = torch.ops.aten.bmm.default(tensor("x0", "float16"), tensor("x1", "float16"))
result = (result if torch.is_tensor(result) else result[0]).cpu().contiguous()
expected = tensor("expected", "float16").cpu()
bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
differs = result.view(bits) != expected.view(bits)
count = f"{int(differs.sum())} of {differs.numel()} elements"
print(f"torch {torch.__version__} ({libraries}): {count} differ from torch 2.6.0's")
if differs.any():
    where = tuple(differs.nonzero()[0].tolist())
    apart = (result.double() - expected.double()).abs().max().item()
    print(f"at most {apart:.4g} apart; at {where} {result[where].item()!r}, not {expected[where].item()!r}")
