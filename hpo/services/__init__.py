"""Servers of this machine, and servers elsewhere made ready for the service."""
