"""`matrix.yaml` and what it names: collections, checkpoints, tolerances."""
