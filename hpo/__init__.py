"""Hyperparameter search for object detectors that runs unattended on machines that fail."""

__version__ = "0.1.0"
