"""The command line, and the whole procedure from data to a scored policy."""
