"""`matrix.yaml` and what it names: collections and checkpoints."""
