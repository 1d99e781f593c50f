"""What worlds are for: policies."""
