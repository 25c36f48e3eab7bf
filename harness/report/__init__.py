"""Tables and words: everything that a person or another program reads."""
