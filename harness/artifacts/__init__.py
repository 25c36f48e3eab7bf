"""What a job makes, what it is computed from, what its numbers mean, and how two of them differ."""
