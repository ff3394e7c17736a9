"""The exceptions of this package."""


class LockError(Exception):
    """Anything that goes wrong with a lock."""


class LockTimeoutError(LockError, TimeoutError):
    """The lock was still held when the time was up."""


class LockBackendError(LockError, TimeoutError):
    """The database could not be reached within the time, or refused; the cause is what it said."""


class LockLostError(LockError):
    """A lease ended before its holder released it."""


class LockStoreError(LockError):
    """What the database said: the cause of a `LockBackendError`."""
