"""`LoopMonitor` names the line that blocks the loop, and is silent about a loop that is not blocked."""

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arbitrageai_native import LoopMonitor
from arbitrageai_native.loop_monitor import LOGGER_NAME, Stall
from testing_support.bridge import run
from testing_support.machine import Stopwatch
from testing_support.waiting import until

NewLoop = Callable[[], asyncio.AbstractEventLoop]


def hidden() -> None:
    time.sleep(0.3)  # the hidden line


def helper() -> None:
    hidden()


async def handler() -> None:
    helper()


async def clean() -> None:
    for _ in range(30):
        await asyncio.sleep(0.01)


def line_of(mark: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))


def test_the_log_names_the_line_three_calls_deep(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> LoopMonitor:
        async with LoopMonitor() as monitor:
            await clean()
            await handler()
            await until(lambda: len(logged()) == 2)
        return monitor

    def logged() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == LOGGER_NAME]

    watch = Stopwatch()
    with caplog.at_level(logging.INFO, LOGGER_NAME):
        monitor = run(new_loop, main())
    stalled, ended = logged()
    assert stalled.levelno == logging.WARNING
    assert f"{__file__}:{line_of('the hidden line')} in hidden" in stalled.getMessage()
    assert "in helper" in stalled.getMessage()
    assert "in handler" in stalled.getMessage()
    assert stalled.threadName != threading.current_thread().name
    assert ended.levelno == logging.INFO
    assert monitor.stalls == 1
    assert 0.1 < monitor.worst < 1 + watch.held_up
    assert monitor.last_stall is not None
    assert monitor.last_stall.taken_while_blocked
    assert sum(monitor.histogram.values()) == monitor.snapshot()["count"] >= 3


def test_a_loop_that_no_task_blocks_is_not_blamed_on_its_own_code(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with LoopMonitor():
            asyncio.get_running_loop().call_soon(time.sleep, 0.3)
            await clean()

    with caplog.at_level(logging.WARNING, LOGGER_NAME):
        asyncio.run(main())
    (stalled,) = [record for record in caplog.records if record.name == LOGGER_NAME]
    assert "no Python code of a task was running (C code, or an overloaded machine)" in stalled.getMessage()


def test_names_of_files_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    names: dict[str, Callable[[], None]] = {}
    source = "import time\ndef block(): time.sleep(0.3)\n"
    exec(compile(source, "a\x1b[2J\nCRITICAL forged\u202e.py", "exec"), names)

    async def main() -> LoopMonitor:
        async with LoopMonitor() as monitor:
            names["block"]()
            await asyncio.sleep(0)
        return monitor

    with caplog.at_level(logging.WARNING, LOGGER_NAME):
        monitor = asyncio.run(main())
    (stalled,) = [record.getMessage() for record in caplog.records if record.name == LOGGER_NAME]
    assert r"by a\x1b[2J\nCRITICAL forged\u202e.py:2 in block" in stalled
    assert "\x1b" not in stalled
    assert not any(line.startswith("CRITICAL") for line in stalled.splitlines())
    assert monitor.last_stall is not None
    assert monitor.last_stall.location.startswith("a\x1b[2J\n")


def test_an_idle_loop_is_not_woken() -> None:
    async def main() -> int:
        async with LoopMonitor(0.02) as monitor:
            await asyncio.sleep(0.5)
            return int(monitor.snapshot()["count"])

    assert asyncio.run(main()) < 5


def test_the_selector_is_left_as_it_was() -> None:
    async def main() -> None:
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        async with LoopMonitor():
            assert "select" in vars(selector)
        assert "select" not in vars(selector)

    asyncio.run(main())


def test_the_stack_is_reported_while_the_loop_blocks() -> None:
    reported = threading.Event()

    async def main() -> bool:
        async with LoopMonitor(0.05, on_stall=lambda _stall: reported.set()) as monitor:
            await asyncio.sleep(0.03)
            found = reported.wait(5)  # blocks the loop until its monitor has said so
            assert monitor.stalls == 1
            assert monitor.current >= 0.05
            return found

    assert asyncio.run(main())


def test_a_clean_loop_leaves_nothing_in_the_log(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> LoopMonitor:
        async with LoopMonitor(0.5) as monitor:
            await clean()
        return monitor

    assert run(new_loop, main()).stalls == 0
    assert [record for record in caplog.records if record.name == LOGGER_NAME] == []


def test_a_loop_that_does_not_run_is_not_blocked(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    loop = new_loop()

    async def install() -> LoopMonitor:
        return LoopMonitor(0.05).install()

    async def lags_counted(monitor: LoopMonitor) -> int:
        before = monitor.snapshot()["count"]
        await asyncio.sleep(0.2)
        return int(monitor.snapshot()["count"]) - int(before)

    monitor = loop.run_until_complete(install())
    time.sleep(0.3)
    assert loop.run_until_complete(lags_counted(monitor)) >= 1
    monitor.uninstall()
    loop.close()
    assert monitor.stalls == 0
    assert [record for record in caplog.records if record.name == LOGGER_NAME] == []


def test_c_code_that_keeps_the_interpreter_is_named_when_it_ends() -> None:
    stalls: list[Stall] = []

    async def main() -> None:
        async with LoopMonitor(0.05, on_stall=stalls.append):
            await asyncio.sleep(0.03)
            sum(range(30_000_000))
            deadline = time.monotonic() + 30
            while not stalls and time.monotonic() < deadline:
                hash("the interpreter changes threads between two calls")

    asyncio.run(main())
    assert len(stalls) == 1
    assert f"{__file__}:" in stalls[0].location


def test_each_of_the_last_seconds_has_its_longest_lag(new_loop: NewLoop) -> None:
    async def main() -> tuple[list[float], list[float], LoopMonitor]:
        async with LoopMonitor() as monitor:
            await asyncio.sleep(0.05)
            helper()
            await asyncio.sleep(0.05)
            soon = monitor.recent
            await asyncio.sleep(1.1)
            return soon, monitor.recent, monitor

    soon, later, monitor = run(new_loop, main())
    assert soon[-1] >= 0.19  # a timer notices what is beyond its beat
    assert len(later) >= 2
    assert max(later) == pytest.approx(monitor.worst, abs=0.001)
    assert later[-1] < 0.19
    assert monitor.recent == []


async def test_the_monitor_of_the_running_loop_can_be_found() -> None:
    assert LoopMonitor.of_running_loop() is None
    async with LoopMonitor() as monitor:
        assert LoopMonitor.of_running_loop() is monitor
    assert LoopMonitor.of_running_loop() is None


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "soon", None])
def test_bad_thresholds_are_named(bad: float) -> None:
    with pytest.raises(ValueError, match="threshold="):
        LoopMonitor(bad)


def test_an_interval_must_not_exceed_the_threshold() -> None:
    with pytest.raises(ValueError, match=r"interval=0\.2"):
        LoopMonitor(0.1, interval=0.2)


async def test_a_loop_has_one_monitor_at_a_time() -> None:
    first = LoopMonitor().install()
    with pytest.raises(RuntimeError, match="has a LoopMonitor already"):
        LoopMonitor().install()
    with pytest.raises(RuntimeError, match="installed already, on this event loop"):
        first.install()
    with pytest.raises(RuntimeError, match="installed already, on another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(LoopMonitorOn(first)()))
    first.uninstall()
    first.uninstall()
    async with LoopMonitor():
        pass


class LoopMonitorOn:
    """Installs a monitor in a coroutine."""

    def __init__(self, monitor: LoopMonitor) -> None:
        self.monitor = monitor

    async def __call__(self) -> None:
        self.monitor.install()


def test_without_a_loop_it_says_where_it_is_to_be_installed() -> None:
    with pytest.raises(RuntimeError, match="from a coroutine or a callback"):
        LoopMonitor().install()


async def test_a_thread_without_a_loop_cannot_watch_that_of_another() -> None:
    monitor = LoopMonitor()
    with pytest.raises(RuntimeError, match="in a running event loop's thread"):
        await asyncio.to_thread(monitor.install)
    assert not monitor.is_installed
    async with monitor:
        with pytest.raises(RuntimeError, match="in a running event loop's thread"):
            await asyncio.to_thread(monitor.install)


async def test_another_thread_may_read_it_and_not_uninstall_it() -> None:
    async with LoopMonitor() as monitor:
        assert await asyncio.to_thread(lambda: monitor.worst) >= 0
        with pytest.raises(RuntimeError, match="in the thread of the loop"):
            await asyncio.to_thread(monitor.uninstall)
        assert monitor.is_installed


ENDINGS = {
    "exit with it running": """
        async def main():
            LoopMonitor().install()
            await asyncio.sleep(0.1)
        asyncio.run(main())
    """,
    "sys.exit in a stall": """
        async def main():
            LoopMonitor(0.02).install()
            await asyncio.sleep(0.05)
            time.sleep(0.1)
            sys.exit(0)
        asyncio.run(main())
    """,
    "the loop closed under it": """
        async def main():
            return LoopMonitor(0.02).install()
        monitor = asyncio.run(main())
        time.sleep(0.2)
        assert threads() == before, (threads(), before)
        monitor.uninstall()
    """,
    "the monitor dropped with its loop": """
        async def main():
            LoopMonitor(60).install()
        asyncio.run(main())
        gc.collect()
        time.sleep(0.1)
        assert threads() == before, (threads(), before)
    """,
    "a fork under it": """
        async def main():
            monitor = LoopMonitor(0.05).install()
            await asyncio.sleep(0.1)
            child = os.fork()
            if child == 0:
                asyncio._set_running_loop(None)
                monitor.uninstall()
                async def again():
                    async with LoopMonitor(0.05) as monitor:
                        await asyncio.sleep(0.2)
                        return monitor.snapshot()["count"]
                os._exit(0 if asyncio.run(again()) >= 1 else 1)
            while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
                await asyncio.sleep(0.01)
            assert os.waitstatus_to_exitcode(status[1]) == 0
        asyncio.run(main())
    """,
    "a child that runs on with the loop": """
        loop = asyncio.new_event_loop()
        async def main():
            LoopMonitor(0.02).install()
            await asyncio.sleep(0.1)
        loop.run_until_complete(main())
        child = os.fork()
        loop.run_until_complete(asyncio.sleep(0.1))
        if child == 0:
            loop.run_until_complete(main())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        loop.close()
    """,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_fork_exit_and_closed_loops_are_safe(ending: str) -> None:
    prelude = textwrap.dedent("""
        import asyncio, gc, logging, os, sys, time, warnings
        from arbitrageai_native import LoopMonitor
        logging.getLogger("arbitrageai_native").addHandler(logging.NullHandler())
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads
        threads = lambda: len(os.listdir("/proc/self/task"))
        before = threads()
    """)
    finished = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(ENDINGS[ending])],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
