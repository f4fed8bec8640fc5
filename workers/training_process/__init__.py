"""The child process that trains, and the parent's side of it."""
