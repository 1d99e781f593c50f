"""Whether the error bounds hold, and what they notice."""
