"""Real beside imagined returns."""
