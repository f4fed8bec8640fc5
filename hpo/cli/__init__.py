"""The command line: the composition root, the only part of hpo that may import workers."""
