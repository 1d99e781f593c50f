"""Robots described by their own compiled MuJoCo model, and by what their recorded observations show of it."""
