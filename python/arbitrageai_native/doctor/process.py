"""The process itself: versions, runtime, limits, and what it was told."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import time
from typing import Final

from arbitrageai_native import __version__, _native
from arbitrageai_native.environment import dotenv_file, load_dotenv_file
from arbitrageai_native.llm.settings import default_max_connections

from .finding import Finding, Level
from .secrets import shown_url

_TOO_FEW_DESCRIPTORS: Final = 256
_FEW_DESCRIPTORS: Final = 1024


async def versions() -> list[Finding]:
    """What is installed, and what was built in."""
    native = ", ".join(f"{name} {version}" for name, version in _native.libraries())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{platform.system()} {platform.machine()}"
    detail = f"arbitrageai-native {__version__}, {python}, {machine}; {native}"
    return [Finding("versions", Level.OK, detail)]


async def runtime() -> list[Finding]:
    """Whether the native runtime starts."""
    try:
        threads = _native.worker_threads()
        started = time.perf_counter()
        await _native.sleep(0)
    except (ValueError, RuntimeError) as error:
        remedy = "Set ARBITRAGEAI_NATIVE_WORKER_THREADS to a whole number of at least 1, or unset it."
        return [Finding("runtime", Level.ERROR, str(error), remedy)]
    milliseconds = (time.perf_counter() - started) * 1000
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    detail = f"answers in {milliseconds:.0f} ms; worker threads: {threads}; loop of {loop}; {_uvloop()}"
    return [Finding("runtime", Level.OK, detail)]


def _uvloop() -> str:
    try:
        return f"uvloop {importlib.metadata.version('uvloop')} is installed"
    except importlib.metadata.PackageNotFoundError:
        return "uvloop is not installed"


async def descriptors() -> list[Finding]:
    """Whether there are enough file descriptors: each connection is one."""
    try:
        import resource
    except ImportError:
        return [Finding("descriptors", Level.OK, "this system has no limit of descriptors")]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return [Finding("descriptors", Level.OK, "not limited")]
    detail = f"{soft} at most, which leaves {default_max_connections()} requests under way at once"
    if soft >= _FEW_DESCRIPTORS:
        return [Finding("descriptors", Level.OK, detail)]
    level = Level.ERROR if soft < _TOO_FEW_DESCRIPTORS else Level.WARNING
    allowed = "as many as are needed" if hard == resource.RLIM_INFINITY else f"up to {hard}"
    remedy = f"Raise the limit ({allowed}): `ulimit -n`, or `LimitNOFILE=` of a systemd unit."
    return [Finding("descriptors", level, detail, remedy)]


def dotenv() -> Finding:
    """Load the `.env` file, as the package does, and say what came of it."""
    from dotenv import dotenv_values

    path = dotenv_file()
    if path is None:
        where = "the working directory, the application's folder or the folders above them"
        return Finding(".env", Level.OK, f"none in {where}")
    before = dict(os.environ)
    try:
        load_dotenv_file()
        values = dotenv_values(path)
    except (OSError, ValueError) as error:
        remedy = "Make it a text file in UTF-8 that this user may read."
        return Finding(".env", Level.ERROR, str(error), remedy)
    overruled = sorted(name for name, value in values.items() if before.get(name, value) != value)
    if overruled:
        path += f"; the environment has other values, which win, for {', '.join(overruled)}"
    return Finding(".env", Level.OK, path)


async def circuits() -> list[Finding]:
    """The circuit breakers of this process."""
    from arbitrageai_native.llm_health_check import CircuitState, get_health_checker

    known = get_health_checker().health_status
    refusing = sorted(
        f"{shown_url(endpoint)} is {metrics.state.value}"
        for endpoint, metrics in known.items()
        if metrics.state is not CircuitState.CLOSED
    )
    if refusing:
        remedy = "Repair the model server: calls are refused until a probe succeeds."
        return [Finding("circuit breakers", Level.WARNING, "; ".join(refusing), remedy)]
    return [Finding("circuit breakers", Level.OK, f"{len(known)} in this process, none open")]
