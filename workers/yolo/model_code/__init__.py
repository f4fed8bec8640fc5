"""Code that goes into the model registry with the weights; nothing of this package imports it."""
