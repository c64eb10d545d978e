"""Export of a model as a static graph."""
