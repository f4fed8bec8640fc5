"""The code that is registered with the weights, to run where this project is not installed."""
