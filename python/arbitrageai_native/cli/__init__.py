"""The commands of `python -m arbitrageai_native`, one file each."""
