"""Transfer studies: whether the Pareto front of one device holds on other devices."""
