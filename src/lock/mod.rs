//! Locks in a shared store: who may bid on a posting. It knows nothing of Python.
