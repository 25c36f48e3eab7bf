"""The CUDA kernels that a repro script launches: `python kernels.py SCRIPT`, with the torch that is to be looked at.

What the script prints comes first. An empty list says that its operator ran on the CPU. Needs torch alone, as the script.
"""

import runpy
import sys

import torch
from torch.profiler import ProfilerActivity, profile

script = sys.argv[1]
sys.argv = [script]
with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
    runpy.run_path(script, run_name="__main__")
print(
    torch.__version__,
    [e.name for e in found.events() if "cuda" in str(e.device_type).lower() and "mem" not in e.name.lower()],
)
