"""Recorded data without an env: foreign files in, transitions out.

``from_log`` is the entry. A child process with limits of time and memory parses the files (``read``,
``child``, one module for each format) into tables of named columns (``table``); ``columns`` says which column
is what; ``runs`` cuts tables into stretches of consecutive steps; ``clock`` puts these on a time grid.
"""
