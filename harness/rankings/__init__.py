"""Rankings of passages: reading them, how two differ, what judgements say of both, and whether that matters."""
