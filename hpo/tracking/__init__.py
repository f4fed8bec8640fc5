"""MLflow: the only folder that imports it, and only inside functions."""
