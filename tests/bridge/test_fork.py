"""A process that forks after the runtime has started: parent and child both go on working.

Each scenario runs in an interpreter of its own, so that it is the scenario, not the test runner, that forks.
"""

import subprocess
import sys
import textwrap

PRELUDE = """
import asyncio, gc, multiprocessing, os, sys, time, warnings
from arbitrageai_native._native import Probe
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads

async def calls(count):
    return await asyncio.gather(*(Probe.noop() for _ in range(count)))

def works():
    assert asyncio.run(calls(100)) == [None] * 100
    return True
"""


def run_scenario(body: str) -> str:
    script = PRELUDE + textwrap.dedent(body)
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=110, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
    return finished.stdout


def test_fork_after_calls_were_done() -> None:
    run_scenario("""
        works()
        child = os.fork()
        if child == 0:
            os._exit(0 if works() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        works()
    """)


def test_fork_with_calls_in_flight() -> None:
    run_scenario("""
        async def main():
            flight = [asyncio.ensure_future(Probe.guarded(0.3)) for _ in range(50)]
            await asyncio.sleep(0.05)
            assert Probe.live_guards() == 50
            child = os.fork()
            if child == 0:
                asyncio._set_running_loop(None)
                ok = works()
                # Dropping the child's copies of them neither hangs nor undoes what is the parent's.
                del flight
                gc.collect()
                os._exit(0 if ok and Probe.live_guards() == 50 else 1)
            while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
                await asyncio.sleep(0.01)
            assert os.waitstatus_to_exitcode(status[1]) == 0
            assert len(await asyncio.gather(*flight)) == 50
        asyncio.run(main())
        works()
    """)


def test_the_child_may_go_on_with_the_loop_it_inherited() -> None:
    run_scenario("""
        loop = asyncio.new_event_loop()
        loop.run_until_complete(calls(10))
        child = os.fork()
        if child == 0:
            os._exit(0 if loop.run_until_complete(calls(10)) == [None] * 10 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert loop.run_until_complete(calls(10)) == [None] * 10
        loop.close()
    """)


def test_a_call_prepared_before_a_fork_is_refused_in_the_child() -> None:
    run_scenario("""
        async def receive(awaitable):
            return await awaitable

        works()
        prepared = Probe.noop()
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(receive(prepared))
            except RuntimeError as error:
                os._exit(0 if "before a fork" in str(error) else 1)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert asyncio.run(receive(prepared)) is None
    """)


def test_multiprocessing_with_the_fork_method_and_children_of_children() -> None:
    run_scenario("""
        def grandchild():
            sys.exit(0 if works() else 1)

        def child():
            works()
            process = context.Process(target=grandchild)
            process.start()
            process.join()
            works()
            sys.exit(process.exitcode)

        context = multiprocessing.get_context("fork")
        works()
        processes = [context.Process(target=child) for _ in range(3)]
        for process in processes:
            process.start()
        works()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
    """)


def test_the_portable_way_survives_a_fork() -> None:
    run_scenario("""
        class LoopWithoutReaders(asyncio.SelectorEventLoop):
            def add_reader(self, *_):
                raise NotImplementedError

        def portable_works():
            loop = LoopWithoutReaders()
            result = loop.run_until_complete(calls(50))
            loop.close()
            return result == [None] * 50

        assert portable_works()
        child = os.fork()
        if child == 0:
            os._exit(0 if portable_works() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert portable_works()
    """)
