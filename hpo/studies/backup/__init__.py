"""A study as one file: export it, restore it elsewhere."""
