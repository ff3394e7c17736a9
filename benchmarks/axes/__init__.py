"""What can be measured, an axis each: see `registry`."""
