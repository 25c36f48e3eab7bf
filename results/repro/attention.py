"""Attention as transformers 4.40.2 computes it in BertSelfAttention, and as 4.41.2 does by SDPA; torch alone.

Written by hand after what `harness locate` names: both sides run other operators there, so no call of one could be
replayed with the other. The shapes are those of the first batch: 32 passages of 72 tokens, 12 heads of 32.
"""

import math

import torch

torch.manual_seed(0)
query, key, value = torch.randn(3, 32, 12, 72, 32)
mask = torch.zeros(32, 1, 72, 72)
mask[:, :, :, 60:] = torch.finfo(torch.float32).min

scores = query @ key.transpose(-1, -2) / math.sqrt(32) + mask
eager = torch.softmax(scores, dim=-1) @ value
sdpa = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

differ = (eager != sdpa).sum().item()
print(f"torch {torch.__version__}: {differ:,} of {eager.numel():,} elements differ,", end=" ")
print(f"at most {(eager - sdpa).abs().max().item():.3g}")
again = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
print("SDPA again is the same:", torch.equal(sdpa, again))
