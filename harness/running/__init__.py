"""From a plan to stored cells."""
