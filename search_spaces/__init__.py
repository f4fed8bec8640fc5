"""What may vary: search spaces in YAML and the code that reads them."""
