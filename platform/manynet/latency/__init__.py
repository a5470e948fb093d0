"""Latency that is not measured each time: tables of operations, predictors, and which of them gives what."""
