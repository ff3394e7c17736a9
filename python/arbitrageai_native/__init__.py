"""LLM calls and database locks for asyncio that never block the event loop."""
