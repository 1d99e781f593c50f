"""A gap report as one self-contained HTML page."""
