"""Telemetry of a run in progress: status files, metrics, TensorBoard events, progress bars."""
