"""The blocking twin of an awaitable: the GIL is released, Ctrl-C works, and an import costs nothing."""

import os
import signal
import subprocess
import sys
import threading
import time

from arbitrageai_native._native import Probe
from testing_support.bridge import nothing_left


def test_other_threads_run_while_one_waits() -> None:
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    guard = Probe.guarded_blocking(0.3)
    done.set()
    thread.join()
    assert ticks > 20
    del guard
    assert nothing_left()


def test_control_c_ends_a_blocking_call_and_drops_its_future() -> None:
    script = """
import signal, sys, time
from arbitrageai_native._native import Probe
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
print("ready", flush=True)
try:
    Probe.guarded_blocking(60)
except KeyboardInterrupt:
    deadline = time.monotonic() + 5
    while Probe.live_guards() and time.monotonic() < deadline:
        time.sleep(0.001)
    print("interrupted", Probe.live_guards())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    interrupted_at = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert output == "interrupted 0\n"
    assert time.monotonic() - interrupted_at < 5


def test_import_starts_no_thread_and_opens_nothing() -> None:
    script = """
import os
def state():
    return sorted(os.listdir("/proc/self/task")), sorted(os.listdir("/proc/self/fd"))
before = state()
import arbitrageai_native, arbitrageai_native._native
assert state() == before, (before, state())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=110)


def test_a_setting_that_is_no_number_of_threads_is_named() -> None:
    script = """
from arbitrageai_native._native import Probe
try:
    Probe.guarded_blocking(0)
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "ARBITRAGEAI_NATIVE_WORKER_THREADS": "many"}
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "ARBITRAGEAI_NATIVE_WORKER_THREADS" in finished.stdout
    assert '"many"' in finished.stdout


def test_a_sub_interpreter_is_refused() -> None:
    script = """
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
import arbitrageai_native._native
code = '''
try:
    import arbitrageai_native._native
except ImportError as error:
    assert "interpreter" in str(error), error  # from 3.12 on it is Python that refuses
else:
    raise AssertionError("not refused")
'''
failure = interpreters.run_string(interpreters.create(), code)
assert failure is None, failure
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=110)
