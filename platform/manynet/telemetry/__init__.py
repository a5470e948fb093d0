"""What a run publishes while it goes on: status files, metrics, TensorBoard events, progress bars."""
