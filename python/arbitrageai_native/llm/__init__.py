"""Calls of model servers: what `LLMService` and the clients are made of."""
