"""Runs what stands in blocks of code in the README and in `docs/`."""
