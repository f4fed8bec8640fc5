"""Train a trial again from what is stored, and compare."""
