"""The record of a decision: documents, charts, pictures and files."""
