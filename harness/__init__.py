"""Shows which PyTorch release changed a ColBERT index, where, by how much, and why."""

__version__ = "0.1.0"
