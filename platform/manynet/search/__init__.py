"""Searches as Ray Tune runs: samplers' proposals, evaluators, monitoring."""
