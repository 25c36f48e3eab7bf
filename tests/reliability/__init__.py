"""Faults injected for real, one after the other, and what the harness made of each: `python -m tests.reliability`.

Each fault happens to a sweep of two versions over a stand-in job that behaves as the worker does. Afterwards it must
hold that whatever cell is `ok` has exactly the tensors of a sweep that nothing happened to, and that the same command,
given again without the fault, ends with the same tables, a store with nothing to find in it, and no process left.
"""
