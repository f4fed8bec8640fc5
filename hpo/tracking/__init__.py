"""MLflow's and optuna-dashboard's view of a study; MLflow loads inside functions only."""
