"""The only part that runs inside the environments under test; it imports nothing from the rest of `harness`."""
