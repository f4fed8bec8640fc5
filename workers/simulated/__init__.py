"""A trainer that trains nothing: curves, detections and evaluations by formula."""
