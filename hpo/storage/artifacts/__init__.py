"""Checkpoints, weights and pictures by content hash, in a folder or an S3 bucket."""
