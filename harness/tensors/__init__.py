"""Tensors without torch: reading, digesting and measuring them."""
