"""How close imagined episodes are to MuJoCo."""
