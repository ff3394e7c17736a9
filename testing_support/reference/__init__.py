"""What this package replaces or is compared with, written anew for tests and measurements."""
