"""Training runs on Ray Train workers."""
