"""Interpreters under test: locks, building, exchange of packages, devices, supervised processes."""
