"""What makes the things that ship: reference policies and worlds."""
