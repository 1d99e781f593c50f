"""Artifacts on disk, their provenance, and progress bars."""
