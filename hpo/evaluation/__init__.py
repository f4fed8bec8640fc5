"""What weights find on a split, and the figures that follow from it."""
