"""Learned dynamics, the world model around them, and how they are fitted and saved."""
