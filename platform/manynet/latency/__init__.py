"""Sources of latency: measurements, tables of operations, and predictors."""
