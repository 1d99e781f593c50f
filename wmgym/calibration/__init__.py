"""Error bounds from held-out episodes, and whether they still hold."""
