"""Tests, one module per module of `harness`."""
