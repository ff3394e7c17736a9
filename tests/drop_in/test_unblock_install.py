"""The ways in to `unblock`, and what each says when it can't work."""

import asyncio
import os
import subprocess
import textwrap
from pathlib import Path

import pytest

from arbitrageai_native.testing import ModelServer
from testing_support.keys import KEY
from tests.drop_in.support import python

# Five postings, as the originals' newest scanner considers them.
SCANNER = """
import asyncio, os
from src.llm_service import LLMService

service = LLMService(os.environ["BASE_URL"], os.environ["API_KEY"], enable_circuit_breaker=False)
under_way = most = 0

def ask():
    global under_way, most
    under_way += 1
    most = max(most, under_way)
    service.complete("x")
    under_way -= 1

async def consider():
    ask()

async def scan():
    await asyncio.gather(*(consider() for _ in range(5)))
    return most
"""
NO_GREENLET = "import sys; sys.modules['greenlet'] = None\n"
WHAT_TO_INSTALL = "pip install 'arbitrageai-native[unblock]'"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    with ModelServer(delay=0.1) as server:
        yield {**os.environ, "BASE_URL": server.base_url, "API_KEY": KEY}


@pytest.fixture
def application(tmp_path: Path) -> Path:
    (tmp_path / "scanner.py").write_text(SCANNER)
    (tmp_path / "main.py").write_text("import asyncio, scanner\nprint(asyncio.run(scanner.scan()))\n")
    return tmp_path


def execute(folder: Path, environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        python(*command), cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("unblock", [True, False])
def test_install(application: Path, environment: dict[str, str], unblock: bool) -> None:
    code = f"from arbitrageai_native import drop_in\ndrop_in.install(unblock={unblock})\nimport main"
    ran = execute(application, environment, "-c", code)
    assert ran.stdout == ("5\n" if unblock else "1\n")
    assert ("blocks the event loop" in ran.stderr) is not unblock


@pytest.mark.parametrize("unblock", [True, False])
def test_run(application: Path, environment: dict[str, str], unblock: bool) -> None:
    options = ["--unblock"] if unblock else []
    ran = execute(
        application, environment, "-m", "arbitrageai_native", "run", *options, "--", *python("main.py")
    )
    assert ran.stdout == ("5\n" if unblock else "1\n"), ran.stderr
    assert ran.stderr.count("scanner.py:12: complete() blocks the event loop") == (0 if unblock else 1)


@pytest.mark.parametrize("unblock", [True, False])
def test_pytest(application: Path, environment: dict[str, str], unblock: bool) -> None:
    (application / "test_it.py").write_text(
        "import scanner\nimport pytest\n@pytest.mark.asyncio\n"
        f"async def test_it():\n    assert await scanner.scan() == {5 if unblock else 1}\n"
    )
    options = ["-p", "arbitrageai_native.drop_in", *(["--unblock"] if unblock else [])]
    options += ["-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    ran = execute(application, environment, "-m", "pytest", "-q", *options, "test_it.py")
    assert ran.returncode == 0, ran.stdout


def test_twice_and_later(application: Path, environment: dict[str, str]) -> None:
    code = """
    import asyncio
    from arbitrageai_native import drop_in
    drop_in.install()

    async def main():
        drop_in.install(unblock=True)
        drop_in.install(unblock=True)
        create_task = asyncio.BaseEventLoop.create_task
        drop_in.install()
        assert asyncio.BaseEventLoop.create_task is create_task
        import scanner
        print(await scanner.scan())

    asyncio.run(main())
    """
    ran = execute(application, environment, "-c", textwrap.dedent(code))
    assert (ran.stdout, ran.stderr) == ("5\n", "")


def test_in_a_thread_while_a_loop_runs(application: Path, environment: dict[str, str]) -> None:
    code = """
    import asyncio
    from arbitrageai_native import drop_in

    async def main():
        await asyncio.to_thread(drop_in.install, unblock=True)
        import scanner
        print(await scanner.scan())

    asyncio.run(main())
    """
    ran = execute(application, environment, "-c", textwrap.dedent(code))
    assert (ran.stdout, ran.stderr) == ("5\n", "")


def test_uninstall_restores(application: Path, environment: dict[str, str]) -> None:
    code = """
    import asyncio, uvloop
    before = [vars(cls).get("create_task") for cls in (asyncio.BaseEventLoop, uvloop.Loop)]
    from arbitrageai_native import drop_in
    drop_in.install(unblock=True)
    drop_in.uninstall()
    assert before == [vars(cls).get("create_task") for cls in (asyncio.BaseEventLoop, uvloop.Loop)]
    assert "__init_subclass__" not in vars(asyncio.AbstractEventLoop)
    """
    ran = execute(application, environment, "-c", textwrap.dedent(code))
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_loop_whose_class_is_defined_later(application: Path, environment: dict[str, str]) -> None:
    code = """
    from arbitrageai_native import drop_in
    drop_in.install(unblock=True)
    import uvloop, scanner
    loop = uvloop.new_event_loop()
    print(loop.run_until_complete(scanner.scan()))
    """
    ran = execute(application, environment, "-c", textwrap.dedent(code))
    assert (ran.stdout, ran.stderr) == ("5\n", "")


# Without the extra


def test_install_without_the_extra(application: Path, environment: dict[str, str]) -> None:
    code = """
    from arbitrageai_native import drop_in
    try:
        drop_in.install(unblock=True)
    except ImportError as error:
        print(error)
    print(drop_in.is_installed())
    """
    ran = execute(application, environment, "-c", NO_GREENLET + textwrap.dedent(code))
    assert ran.stdout == f"unblock needs greenlet: {WHAT_TO_INSTALL}\nFalse\n"


def test_run_without_the_extra(application: Path, environment: dict[str, str]) -> None:
    code = "from arbitrageai_native.cli.main import main\nsys.exit(main(['run', '--unblock', '--', 'true']))"
    ran = execute(application, environment, "-c", f"import sys\n{NO_GREENLET}{code}")
    assert ran.returncode == 2
    assert WHAT_TO_INSTALL in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_pytest_without_the_extra(application: Path, environment: dict[str, str]) -> None:
    code = "import pytest\nsys.exit(pytest.main(['-p', 'arbitrageai_native.drop_in', '--unblock', '.']))"
    ran = execute(application, environment, "-c", f"import sys\n{NO_GREENLET}{code}")
    assert ran.returncode == 4
    assert WHAT_TO_INSTALL in ran.stderr
    assert "Traceback" not in ran.stderr


def test_neither_greenlet_nor_unblock_is_imported_without_it(application: Path) -> None:
    code = """
    import sys
    from arbitrageai_native import drop_in
    drop_in.install()
    from src.llm_service import LLMService
    print([name for name in sys.modules if "greenlet" in name or "unblock" in name])
    """
    ran = execute(application, dict(os.environ), "-c", textwrap.dedent(code))
    assert ran.stdout == "[]\n"


async def test_a_task_of_this_process_has_no_portal() -> None:
    task = asyncio.current_task()
    assert task is not None
    assert type(task.get_coro()).__name__ == "coroutine"
