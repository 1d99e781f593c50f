"""The command line and the whole line from data to a scored policy."""
