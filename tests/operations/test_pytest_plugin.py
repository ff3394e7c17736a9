"""The pytest plugin, as a user's test suite has it: found by its entry point, in a pytest of its own."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

APPLICATION = """
import asyncio, time

def hidden():
    time.sleep(0.3)  # the hidden line

def helper():
    hidden()

async def blocked():
    helper()

async def clean():
    await asyncio.sleep(1.2)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with an application; warnings are errors."""
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error\naddopts = --strict-markers"
    )
    pytester.makepyfile(application=APPLICATION)
    return pytester


def run(suite: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    suite.makepyfile(test_it="import pytest\nimport application\n" + test)
    # Two plugins that take long to import, and have no part in this.
    left_out = ("-p", "no:hypothesispytest", "-p", "no:anyio")
    return suite.runpytest_subprocess(*left_out, *options, timeout=110)


def test_the_marker_fails_a_test_that_blocks_and_prints_the_stack(suite: pytest.Pytester) -> None:
    outcome = run(
        suite,
        "@pytest.mark.no_blocking(milliseconds=100)\nasync def test_it():\n    await application.blocked()\n",
    )
    outcome.assert_outcomes(failed=1)
    told = r"the event loop was blocked for ([2-9]|\d\d)\d\d ms; no_blocking allows 100 ms"
    outcome.stdout.re_match_lines([told])
    outcome.stdout.fnmatch_lines(
        [
            "blocked by *application.py:4 in hidden:",
            "*in blocked",
            "*in helper",
            "*in hidden",
            "*time.sleep(0.3)*",
        ]
    )


def test_the_marker_is_silent_about_a_clean_test_and_keeps_its_fixtures(suite: pytest.Pytester) -> None:
    outcome = run(
        suite,
        "@pytest.mark.no_blocking(milliseconds=1000)\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "async def test_it(number, tmp_path):\n    assert tmp_path.exists()\n    await application.clean()\n",
    )
    outcome.assert_outcomes(passed=2)


def test_a_failure_of_the_test_itself_comes_first(suite: pytest.Pytester) -> None:
    test = (
        "@pytest.mark.no_blocking\nasync def test_it():\n    await application.blocked()\n    assert 1 == 2\n"
    )
    outcome = run(suite, test)
    outcome.assert_outcomes(failed=1)
    outcome.stdout.fnmatch_lines(["*assert 1 == 2*"])


WRONG = [
    ("no_blocking", "def", "no_blocking is for asynchronous tests"),
    ("no_blocking(milliseconds=0)", "async def", "milliseconds=0 must be a number of at least 1"),
    ("no_blocking(milliseconds='5')", "async def", "milliseconds='5' must be a number"),
    ("no_blocking(1, 2)", "async def", "takes one argument"),
    ("no_blocking(seconds=1)", "async def", "takes one argument"),
]


def test_wrong_use_is_named(suite: pytest.Pytester) -> None:
    tests = (
        f"@pytest.mark.{marker}\n{definition} test_{number}():\n    pass\n"
        for number, (marker, definition, _) in enumerate(WRONG)
    )
    outcome = run(suite, "".join(tests))
    printed = outcome.stdout.str()
    for number, (_, _, complaint) in enumerate(WRONG):
        _, _, report = printed.partition(f"ERROR at setup of test_{number} ")
        assert complaint in report.partition("\n____")[0]
    assert outcome.ret == pytest.ExitCode.TESTS_FAILED


def test_the_server_answers_as_scripted_and_records_what_it_was_asked(suite: pytest.Pytester) -> None:
    outcome = run(
        suite,
        """
from arbitrageai_native import LLMService
from arbitrageai_native.testing import Failure

@pytest.mark.no_blocking(milliseconds=500)
async def test_it(model_server):
    service = LLMService(base_url=model_server.base_url, api_key="any")
    model_server.script(Failure(429, headers={"retry-after-ms": "1"}), "Dear client")
    assert (await service.complete_async("Write."))["content"] == "Dear client"
    assert [request.prompt for request in model_server.requests] == ["Write.", "Write."]

def test_it_in_a_synchronous_test(model_server):
    service = LLMService(base_url=model_server.base_url, api_key="any")
    assert service.complete("echo")["content"] == "echo"
""",
    )
    outcome.assert_outcomes(passed=2)


def test_every_test_starts_without_locks(suite: pytest.Pytester) -> None:
    outcome = run(
        suite,
        """
from arbitrageai_native import BidLockManager

@pytest.mark.parametrize("time", [1, 2])
async def test_it(memory_locks, time):
    await BidLockManager(database_url="sqlite://").acquire_lock("upwork", "left behind", holder_id="a")
    assert await memory_locks.acquire_lock("upwork", "17", timeout=0, holder_id="b")
    assert not await memory_locks.acquire_lock("upwork", "17", timeout=0, holder_id="c")
    assert len((await memory_locks.locks()).held) == 2
""",
    )
    outcome.assert_outcomes(passed=2)


def test_a_suite_that_does_not_use_it_imports_nothing_heavy(suite: pytest.Pytester) -> None:
    outcome = run(
        suite,
        """
import sys

def test_it():
    ours = sorted(name for name in sys.modules if name.startswith("arbitrageai_native"))
    package = "arbitrageai_native"
    assert ours == [package, f"{package}.integrations", f"{package}.integrations.pytest_plugin"]
""",
    )
    outcome.assert_outcomes(passed=1)


def test_it_takes_next_to_no_time_to_load() -> None:
    measure = (
        "import pytest, time; start = time.process_time(); "
        "import arbitrageai_native.integrations.pytest_plugin; "
        "print(time.process_time() - start)"
    )
    assert float(subprocess.check_output([sys.executable, "-c", measure])) < 0.05
