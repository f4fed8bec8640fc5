"""Datasets: data YAMLs, checks, fingerprints, built-in sets, and copies in the artifact store."""
