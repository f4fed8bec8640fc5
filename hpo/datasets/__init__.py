"""Datasets: what a data YAML means, its faults and fingerprint, and the sets made here."""
