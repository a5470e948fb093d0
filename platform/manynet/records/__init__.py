"""Records of evaluations and measurements: the ledger, objectives, Pareto fronts, selection, display."""
