"""What wmgym is worth, measured: ``python -m benchmarks`` lists the questions."""
