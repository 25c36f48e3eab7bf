"""Finished cells on disk: records, repeats, finding the right cell, audit, transfer."""
