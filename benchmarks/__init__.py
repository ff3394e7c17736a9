"""Comparisons with other packages, one command each: `python -m benchmarks run [NAME…] [--quick]`."""
