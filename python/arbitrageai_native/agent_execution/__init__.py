"""Drop-in replacements for the modules of the same names."""
