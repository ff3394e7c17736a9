"""Lets the event loop go on while a blocking method of the service, called in a task, waits.

`install()` gives every task a portal (`tasks`, `portal`), and tells the blocking methods to use it
(`llm.blocking`). Before a call suspends its task, `obstacles` looks at the functions in between: where other
tasks must not run meanwhile, the call blocks as before. `watch` looks for what cannot be seen beforehand.
"""

from __future__ import annotations

from arbitrageai_native.llm import blocking

__all__ = ["check_extra", "install", "is_installed", "uninstall"]


def check_extra() -> None:
    """Raise `ImportError`, and say what to install, if greenlet is not there."""
    try:
        import greenlet  # noqa: F401
    except ImportError as error:
        raise ImportError("unblock needs greenlet: pip install 'arbitrageai-native[unblock]'") from error


def install() -> None:
    """Let blocking methods suspend the task that called them. Again, it changes nothing."""
    check_extra()
    if is_installed():
        return
    from arbitrageai_native.llm.unblock import tasks
    from arbitrageai_native.llm.unblock.suspender import TaskSuspender

    tasks.install()
    blocking.suspender = TaskSuspender()


def uninstall() -> None:
    """Take `install` back."""
    if is_installed():
        from arbitrageai_native.llm.unblock import tasks

        blocking.suspender = None
        tasks.uninstall()


def is_installed() -> bool:
    """Whether blocking methods suspend the task that called them."""
    return blocking.suspender is not None
