"""A run as it goes on: what it tells of itself, to whom, and where."""
