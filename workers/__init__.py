"""Where trials run: the trainers, their process, and the loop around it."""
