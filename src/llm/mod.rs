//! The client of OpenAI-compatible model servers. It knows nothing of Python.
