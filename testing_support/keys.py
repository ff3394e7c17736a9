"""The API key of every test of the client: recognised wherever it gets out (`tests/llm/secret_watch.py`)."""

MARKER = "found-in-the-open"
KEY = f"sk-{MARKER}-0123456789abcdef"
