"""Where everything is kept: PostgreSQL, and files by content."""
