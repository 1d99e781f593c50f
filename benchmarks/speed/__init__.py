"""How fast, against MuJoCo and against an earlier checkout."""
