"""Why two cells differ."""
