"""The eleven Gymnasium MuJoCo v5 tasks, mirrored from their documented formulas."""
