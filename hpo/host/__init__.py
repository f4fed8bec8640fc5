"""This machine: processes, ports, file locks, and what is recorded of it."""
