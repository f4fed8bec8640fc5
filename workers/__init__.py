"""Where trials run: worker, training process, trainers, and workers on Ray."""
