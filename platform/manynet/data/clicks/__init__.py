"""Click-through data: dense and categorical features with a label of 0 or 1."""
