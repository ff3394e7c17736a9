"""Leases of locks, who holds them, and which database they are in."""
