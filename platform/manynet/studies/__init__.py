"""Studies: the steps from a space to exported finalists, in order."""
