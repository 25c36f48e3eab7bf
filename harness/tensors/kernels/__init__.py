"""Compiled one-pass kernels for big tensors; `harness.tensors.passes` has the same passes in plain NumPy.

Everything here works on blocks that stay in the first-level cache: load a block of both sides once, then run short
loops that LLVM turns into vector code, one per metric; `vectors` and `vector_integers` have those that it does not find
by itself. Sums restart with every chunk, and chunks do not depend on the number of threads, so a result is the same on
every run.

bfloat16 comes in as int16 and float16 as uint16, so that a kernel can tell them apart by type.
"""
