"""Displays runs in progress."""
