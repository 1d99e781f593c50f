"""What the benchmarks share: results, data and worlds, tables, plots and pages."""
