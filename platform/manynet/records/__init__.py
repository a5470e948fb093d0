"""What was evaluated and measured, and how it is selected, ranked and displayed."""
