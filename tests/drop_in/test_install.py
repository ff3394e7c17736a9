"""`install()`, `uninstall()`, the pytest plugin and `run`: the originals' names stand for our modules."""

import json
import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.drop_in.support import ENVIRONMENT, python

NAMES = (
    "src.llm_service",
    "src.llm_health_check",
    "src.agent_execution.bid_lock_manager",
    "src.utils.async_helpers",
)
INSTALL = "from arbitrageai_native import drop_in\ndrop_in.install()\n"


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """An application with the originals in it; each says what it is."""
    for name in NAMES:
        file = tmp_path / (name.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("WHO = 'original'\nclass LLMService: pass\n")
        (file.parent / "__init__.py").touch()
    (tmp_path / "src" / "scanner.py").write_text("from .llm_service import LLMService\n")
    return tmp_path


def execute(folder: Path, code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own whose working directory is `folder`."""
    return subprocess.run(
        python(*options, "-c", textwrap.dedent(code)),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
    )


def output(folder: Path, code: str, **environment: str) -> str:
    """What the code prints; it has to succeed."""
    ran = execute(folder, code, **environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("originals_exist", [True, False])
def test_the_names_are_our_modules(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, originals_exist: bool
) -> None:
    if originals_exist:
        request.getfixturevalue("application")
    code = f"{INSTALL}import {name} as found\nprint(found.__name__, hasattr(found, 'WHO'))"
    assert output(tmp_path, code) == f"{name.replace('src', 'arbitrageai_native', 1)} False"


def test_every_way_to_import_gives_the_same_module(application: Path) -> None:
    code = f"""{INSTALL}
import importlib, sys
import src.llm_service
from src import llm_service
from src.llm_service import LLMService
from src.scanner import LLMService as relative
import arbitrageai_native.llm_service as ours
assert src.llm_service is llm_service is ours is importlib.import_module("src.llm_service")
assert sys.modules["src.llm_service"] is ours
assert LLMService is relative is ours.LLMService
assert ours.__spec__.name == "arbitrageai_native.llm_service"
"""
    output(application, code)


def test_what_is_patched_under_the_originals_name_is_patched(application: Path) -> None:
    code = f"""{INSTALL}
from unittest.mock import patch
from src.llm_service import LLMService
with patch("src.llm_service.OpenAI") as openai:
    assert LLMService(base_url="http://h/v1").client is openai.return_value
with patch("src.llm_service.LLMService.complete", return_value=1):
    assert LLMService().complete("p") == 1
import src.agent_execution.bid_lock_manager as locks
locks._bid_lock_manager = None
assert locks.get_bid_lock_manager() is locks._bid_lock_manager
"""
    output(application, code)


def test_install_imports_nothing_of_ours_yet(application: Path) -> None:
    code = f"""{INSTALL}
import sys
print([name for name in sys.modules if name.startswith(("src", "arbitrageai_native."))])"""
    assert output(application, code) == "['arbitrageai_native.drop_in']"


def test_other_modules_of_the_application_stay(application: Path) -> None:
    (application / "src" / "other.py").write_text("WHO = 'application'\n")
    assert output(application, f"{INSTALL}import src.other; print(src.other.WHO)") == "application"


def test_a_missing_package_below_the_applications_is_made(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("WHO = 'application'\n")
    code = f"""{INSTALL}
import src.agent_execution.bid_lock_manager as locks
import src
print(src.WHO, locks.__name__)"""
    assert output(tmp_path, code) == "application arbitrageai_native.agent_execution.bid_lock_manager"


def test_uninstall_restores(application: Path) -> None:
    code = f"""{INSTALL}
import sys
before = list(sys.meta_path)
import src.llm_service, src.agent_execution.bid_lock_manager
drop_in.uninstall()
assert not drop_in.is_installed()
assert not [name for name in sys.modules if name in {NAMES!r}]
assert not hasattr(src, "llm_service")
import src.llm_service
from src.agent_execution import bid_lock_manager
print(src.llm_service.WHO, bid_lock_manager.WHO)"""
    assert output(application, code) == "original original"


def test_loggers_have_the_originals_names(application: Path) -> None:
    code = f"""{INSTALL}
import logging
import src.llm_health_check as health, src.agent_execution.bid_lock_manager as locks
print(health.logger.name, locks.logger.name, health.logger is logging.getLogger("src.llm_health_check"))
drop_in.uninstall()
print(health.logger.name, locks.logger.name)"""
    ours = "arbitrageai_native"
    assert output(application, code).splitlines() == [
        "src.llm_health_check src.agent_execution.bid_lock_manager True",
        f"{ours}.llm_health_check {ours}.agent_execution.bid_lock_manager",
    ]


def test_uninstall_takes_away_what_did_not_exist(tmp_path: Path) -> None:
    code = f"""
import sys
finders = list(sys.meta_path)
{INSTALL}
import src.utils.async_helpers
drop_in.uninstall()
assert sys.meta_path == finders
print([name for name in sys.modules if name.split(".")[0] == "src"])
try:
    import src.utils.async_helpers
except ModuleNotFoundError as error:
    print(error)"""
    assert output(tmp_path, code) == "[]\nNo module named 'src'"


def test_uninstall_without_install_changes_nothing(application: Path) -> None:
    code = """
from arbitrageai_native import drop_in
import src.llm_service
drop_in.uninstall()
drop_in.uninstall()
import src.llm_service as again
print(again is src.llm_service, again.WHO)"""
    assert output(application, code) == "True original"


# Bad input


def test_install_twice_changes_nothing(application: Path) -> None:
    code = f"""{INSTALL}
import sys
import src.llm_service as first
finders = list(sys.meta_path)
drop_in.install()
assert sys.meta_path == finders
import src.llm_service as second
assert first is second
drop_in.uninstall()
import src.llm_service as original
print(original.WHO)"""
    assert output(application, code) == "original"


def test_install_after_an_import_names_who_imported(application: Path) -> None:
    code = """
import sys
import src.scanner
from arbitrageai_native import drop_in
finders = list(sys.meta_path)
try:
    drop_in.install()
except drop_in.AlreadyImportedError as error:
    print(error)
assert sys.meta_path == finders
assert not drop_in.is_installed()
print(src.llm_service.WHO)"""
    message, who = output(application, code).splitlines()
    assert "src.llm_service was imported by src.scanner (" in message
    assert str(application / "src" / "scanner.py") in message
    assert "src.llm_health_check" not in message
    assert who == "original"


def test_install_after_an_import_by_the_main_module(application: Path) -> None:
    ran = execute(application, f"import src.llm_health_check\nfrom src import llm_service\n{INSTALL}")
    assert ran.returncode == 1
    assert "src.llm_service was imported by __main__" in ran.stderr
    assert "src.llm_health_check was imported by a module that keeps nothing of it" in ran.stderr


def test_install_during_an_import_says_so(application: Path) -> None:
    (application / "src" / "llm_service.py").write_text(INSTALL)
    ran = execute(application, "import src.llm_service")
    assert ran.returncode == 1
    assert "AlreadyImportedError" in ran.stderr
    assert "src.llm_service is being imported at this moment" in ran.stderr


def test_install_after_an_import_that_failed(application: Path) -> None:
    (application / "src" / "llm_service.py").write_text("import openai_that_is_not_there\n")
    code = f"""
try:
    import src.llm_service
except ModuleNotFoundError:
    pass
{INSTALL}
import src.llm_service
print(src.llm_service.__name__)"""
    assert output(application, code) == "arbitrageai_native.llm_service"


def test_install_from_a_thread(application: Path) -> None:
    code = """
import threading
from arbitrageai_native import drop_in
threads = [threading.Thread(target=drop_in.install) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
import sys
import src.llm_service
print(src.llm_service.__name__, len(sys.meta_path) - len(set(map(id, sys.meta_path))))"""
    assert output(application, code) == "arbitrageai_native.llm_service 0"


# The database is the application's own

DATABASE = """
import os, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
DATABASE_URL = "sqlite:///application.db"
engine = create_engine(DATABASE_URL)
SessionLocal = sessionmaker(bind=engine)
"""


@pytest.fixture
def with_database(application: Path) -> Path:
    """The application, with a database of its own."""
    (application / "src" / "api").mkdir()
    (application / "src" / "api" / "__init__.py").touch()
    (application / "src" / "api" / "database.py").write_text(DATABASE)
    return application


ACQUIRE = """
import asyncio
from src.agent_execution.bid_lock_manager import get_bid_lock_manager
assert asyncio.run(get_bid_lock_manager().acquire_lock("upwork", "p1"))
"""


def databases(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.db"))


def test_the_database_is_the_applications(with_database: Path) -> None:
    output(with_database, f"{INSTALL}import src.api.database{ACQUIRE}", DATABASE_URL="sqlite:///other.db")
    assert databases(with_database) == ["application.db"]


def test_an_application_without_an_engine_has_its_url(with_database: Path) -> None:
    (with_database / "src" / "api" / "database.py").write_text('DATABASE_URL = "sqlite:///by_url.db"\n')
    output(with_database, f"{INSTALL}import src.api.database{ACQUIRE}")
    assert databases(with_database) == ["by_url.db"]


@pytest.mark.parametrize("url", ["sqlite:///other.db", ""])
def test_a_database_module_that_is_not_loaded_is_imported(with_database: Path, url: str) -> None:
    output(with_database, f"{INSTALL}{ACQUIRE}", DATABASE_URL=url)
    assert databases(with_database) == ["application.db"]


def test_a_database_url_of_the_managers_own_wins(with_database: Path) -> None:
    code = f"""{INSTALL}
import asyncio, src.api.database
from src.agent_execution.bid_lock_manager import BidLockManager
assert asyncio.run(BidLockManager(database_url="sqlite:///mine.db").acquire_lock("upwork", "p1"))"""
    output(with_database, code)
    assert databases(with_database) == ["mine.db"]


def test_an_in_memory_database_of_the_application_is_private_to_the_process(with_database: Path) -> None:
    (with_database / "src" / "api" / "database.py").write_text(
        DATABASE.replace("sqlite:///application.db", "sqlite://")
    )
    output(with_database, f"{INSTALL}import src.api.database{ACQUIRE}")
    assert databases(with_database) == []


# The database module of the original application: the file is in the project's folder, whatever the
# working directory is.
LIKE_THE_ORIGINALS = """
import os
from pathlib import Path
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
folder = Path(__file__).parents[2] / "data"
folder.mkdir(exist_ok=True)
engine = create_engine(os.getenv("DATABASE_URL", f"sqlite:///{folder / 'tasks.db'}"))
SessionLocal = sessionmaker(bind=engine)
"""

TRY = """
import asyncio
print(asyncio.run(BidLockManager().acquire_lock("upwork", "p1", timeout=0)))
"""
OF_THE_ORIGINAL = "from src.agent_execution.bid_lock_manager import BidLockManager\n"
WAYS = {
    "import": "from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager\n",
    "file": OF_THE_ORIGINAL,
    "install": INSTALL + OF_THE_ORIGINAL,
}


@pytest.mark.parametrize(("url", "loaded"), [(None, False), ("postgres_url", True)])
def test_an_old_process_and_new_ones_mean_the_same_database(
    tmp_path: Path, request: pytest.FixtureRequest, url: str | None, loaded: bool
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "src" / "api").mkdir(parents=True)
    elsewhere.mkdir()
    (project / "src" / "api" / "database.py").write_text(LIKE_THE_ORIGINALS)
    reference = Path(__file__).parents[2] / "testing_support" / "reference"
    environment = {"PYTHONPATH": f"{project}{os.pathsep}{reference}"}
    if url is not None:
        server: str = request.getfixturevalue(url)
        environment["DATABASE_URL"] = server.replace("postgresql:", "postgresql+psycopg2:")
    make_table = (
        "import src.api.database as d, src.database; src.database.Base.metadata.create_all(d.engine)\n"
    )
    assert output(elsewhere, f"{make_table}{OF_THE_ORIGINAL}{TRY}", **environment) == "True"
    environment["PYTHONPATH"] = str(project)
    load = "import src.api.database\n" if loaded else ""
    for way, code in WAYS.items():
        if way == "file":
            (project / "src" / "agent_execution").mkdir()
            (project / "src" / "agent_execution" / "bid_lock_manager.py").write_text(
                the_file().replace("llm_service", "agent_execution.bid_lock_manager")
            )
        assert output(elsewhere, f"{load}{code}{TRY}", **environment) == "False", way
    assert databases(elsewhere) == []


def test_a_database_module_that_fails_is_named_and_no_other_database_is_used(with_database: Path) -> None:
    (with_database / "src" / "api" / "database.py").write_text(
        "raise RuntimeError('no postgresql://app:hunter2@host/x')\n"
    )
    code = f"""
{WAYS["import"]}
import asyncio, traceback
manager = BidLockManager()
print(asyncio.run(manager.acquire_lock("upwork", "p1", timeout=0)))
try:
    asyncio.run(manager.acquire_lease("upwork", "p1", timeout=0))
except TimeoutError as error:
    print(type(error).__name__, error)"""
    ran = execute(with_database, code, DATABASE_URL="sqlite:///other.db")
    assert ran.returncode == 0, ran.stderr
    acquired, error = ran.stdout.splitlines()
    assert acquired == "False"
    assert error.startswith("LockBackendError src.api.database, which defines the database of the locks")
    assert "RuntimeError: no postgresql://***@host/x" in error
    assert "src.api.database" in ran.stderr
    assert "hunter2" not in ran.stdout + ran.stderr
    assert databases(with_database) == []


def test_a_package_of_the_application_that_fails_is_told(with_database: Path) -> None:
    (with_database / "src" / "api" / "__init__.py").write_text("import a_module_that_is_not_there\n")
    code = f"""
{WAYS["import"]}
import asyncio
try:
    asyncio.run(BidLockManager().acquire_lease("upwork", "p1", timeout=0))
except TimeoutError as error:
    print(error)"""
    assert "a_module_that_is_not_there" in output(with_database, code)
    assert databases(with_database) == []


def test_a_database_module_that_imports_the_locks(with_database: Path) -> None:
    (with_database / "src" / "api" / "database.py").write_text(
        f"from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager\n"
        f"import asyncio\n"
        f"locks = BidLockManager()\n"
        f"try:\n"
        f"    asyncio.run(locks.acquire_lease('upwork', 'p1', timeout=0))\n"
        f"except TimeoutError as error:\n"
        f"    too_early = str(error)\n"
        f"{DATABASE}"
    )
    code = """
import asyncio
from src.api.database import locks, too_early
assert asyncio.run(locks.acquire_lock("upwork", "p1"))
print(too_early)"""
    for first in ("", f"{WAYS['import']}BidLockManager()\n"):
        assert "src.api.database" in output(with_database, first + code)
        assert databases(with_database) == ["application.db"]


def test_another_packages_src_is_no_application(tmp_path: Path) -> None:
    for file in ("src/api.py", "src/__init__.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    output(tmp_path, f"{WAYS['import']}{TRY}", DATABASE_URL="sqlite:///named.db")
    (tmp_path / "src" / "api.py").unlink()
    (tmp_path / "src" / "api").mkdir()
    (tmp_path / "src" / "api" / "database.py").write_text("def connect(): ...\n")
    output(tmp_path, f"{WAYS['import']}{TRY}", DATABASE_URL="sqlite:///named.db")
    assert databases(tmp_path) == ["named.db"]


def test_without_an_application_the_default_file_is_logged_once(tmp_path: Path) -> None:
    ran = execute(
        tmp_path,
        f"{WAYS['import']}{TRY}{TRY}print(asyncio.run(BidLockManager(database_url='sqlite://').cleanup_all()))",
        DATABASE_URL="",
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count(str(tmp_path / "data" / "tasks.db")) == 1
    assert databases(tmp_path) == ["data/tasks.db"]


def test_an_asynchronous_engine_of_the_applications(with_database: Path) -> None:
    (with_database / "src" / "api" / "database.py").write_text(
        DATABASE.replace("SessionLocal", "Unused")
        .replace("engine = create_engine", "real = create_engine")
        .replace("bind=engine", "bind=real")
        + "class Async:\n    sync_engine = real\n    url = real.url\nengine = Async()\n"
    )
    output(with_database, f"{INSTALL}{ACQUIRE}")
    assert databases(with_database) == ["application.db"]


# `.env`


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("working directory", "locks"),
        ("application", "locks"),
        ("program", "locks"),
        ("application", "factory"),
        ("application", "Redis"),
        ("application", "command line"),
        ("application", "calls"),
    ],
)
def test_a_dotenv_file_counts_for_everything(tmp_path: Path, where: str, what: str) -> None:
    folders = {
        name: tmp_path / name.replace(" ", "_") for name in ("working directory", "application", "program")
    }
    (folders["application"] / "src").mkdir(parents=True)
    (folders["program"] / "bin").mkdir(parents=True)
    (folders["working directory"] / "below").mkdir(parents=True)
    found = f"sqlite:///{tmp_path}/found.db"
    names = list(folders)
    # Only the first file found is loaded: the later ones have other values.
    for name in names[names.index(where) :]:
        url = found if name == where else f"sqlite:///{tmp_path}/wrong.db"
        (folders[name] / ".env").write_text(
            f"DATABASE_URL={url}\nAPI_KEY={where}\nUSE_REDIS_LOCKS=\nREDIS_URL={name}\n"
        )
    codes = {
        "locks": f"{WAYS['import']}{TRY}",
        "factory": "from arbitrageai_native.agent_execution.bid_lock_manager_factory import *\n"
        "import asyncio\nasync def main():\n    locks = await create_bid_lock_manager()\n"
        "    print(await locks.acquire_lock('upwork', 'p1'))\nasyncio.run(main())\n",
        "Redis": "from arbitrageai_native.agent_execution.redis_bid_lock_manager import *\n"
        "import os\ntry:\n    RedisBidLockManager()\nexcept ValueError:\n"
        "    print(os.environ['REDIS_URL'])\n",
        "command line": "import sys\nfrom arbitrageai_native.cli.main import main\n"
        "sys.exit(main(['locks']))\n",
        "calls": "from arbitrageai_native import LLMService\nprint(LLMService().api_key)\n",
    }
    program = folders["program"] / "bin" / "program.py"
    program.write_text(codes[what])
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    ran = subprocess.run(
        python(str(program)),
        cwd=folders["working directory"] / "below",
        env={**environment, "PYTHONPATH": str(folders["application"])},
        capture_output=True,
        text=True,
        timeout=110,
    )
    if what == "command line":  # it creates no file
        assert (ran.returncode, databases(tmp_path)) == (2, [])
        assert f"{tmp_path}/found.db" in ran.stderr
        return
    assert ran.returncode == 0, ran.stderr
    if what in ("calls", "Redis"):
        assert ran.stdout.strip() == where
    else:
        assert databases(tmp_path) == ["found.db"]


def test_a_variable_that_is_set_wins_over_a_dotenv_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///file.db\n")
    output(tmp_path, f"{WAYS['import']}{TRY}", DATABASE_URL="sqlite:///set.db")
    assert databases(tmp_path) == ["set.db"]


def test_a_dotenv_file_counts_for_the_applications_own_module(tmp_path: Path) -> None:
    (tmp_path / "src" / "api").mkdir(parents=True)
    (tmp_path / "src" / "api" / "database.py").write_text(LIKE_THE_ORIGINALS)
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///file.db\n")
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    ran = subprocess.run(
        python("-c", f"{WAYS['import']}{TRY}"), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (ran.stdout, ran.stderr) == ("True\n", "")
    assert databases(tmp_path) == ["file.db"]


@pytest.mark.parametrize("content", [b"DATABASE_URL=\xff\xfe\n", None])
def test_a_dotenv_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / ".env"
    if content is None:
        file.mkdir()  # `.env` is sometimes the folder of a virtual environment
    else:
        file.write_bytes(content)
    ran = execute(tmp_path, f"{WAYS['import']}BidLockManager()", DATABASE_URL="sqlite://")
    if content is None:
        assert ran.returncode == 0, ran.stderr
    else:
        assert f"ValueError: {file} can't be read" in ran.stderr


# The original's file, replaced


def the_file() -> str:
    """What the migration guide gives for the original's file."""
    guide = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
    (code,) = [
        code for code in re.findall(r"```python[^\n]*\n(.*?)```", guide, re.DOTALL) if "sys.modules" in code
    ]
    return code


def test_a_file_of_three_lines_takes_the_originals_place(application: Path) -> None:
    (application / "src" / "llm_service.py").write_text(the_file())
    code = """
from unittest.mock import patch
import src.llm_service, arbitrageai_native.llm_service as ours
from src import llm_service
from src.scanner import LLMService
assert src.llm_service is llm_service is ours
with patch("src.llm_service.OpenAI") as openai:
    assert LLMService().client is openai.return_value"""
    output(application, code)


# pytest


PYTEST = ["-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
PYTEST += ["-o", "asyncio_default_fixture_loop_scope=function"]


@pytest.mark.parametrize("way", ["plugin", "run", "both"])
def test_the_pytest_plugin_installs_before_conftest(application: Path, way: str) -> None:
    (application / "conftest.py").write_text("from src.llm_service import LLMService\n")
    (application / "test_it.py").write_text(
        "from src.llm_service import LLMService\n"
        "def test_it():\n    assert LLMService.__module__ == 'arbitrageai_native.llm_service'\n"
    )
    command = python(*PYTEST, *([] if way == "run" else ["-p", "arbitrageai_native.drop_in"]), ".")
    if way != "plugin":
        command = python("-m", "arbitrageai_native", "run", "--", *command)
    ran = subprocess.run(command, cwd=application, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout


def test_the_pytest_plugin_too_late_is_a_usage_error(application: Path) -> None:
    (application / "conftest.py").write_text(
        "import src.scanner\npytest_plugins = ['arbitrageai_native.drop_in']\n"
    )
    (application / "test_it.py").write_text("def test_it(): pass\n")
    ran = subprocess.run(
        python(*PYTEST, "."),
        cwd=application,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 4
    assert "src.llm_service was imported by src.scanner" in ran.stderr
    assert "Traceback" not in ran.stderr


# run


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python("-m", "arbitrageai_native", "run", *command),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
    )


WHO = "import src.llm_service; print(src.llm_service.__name__)"


def test_run_installs_in_the_command(application: Path) -> None:
    ran = run(application, "--", *python("-c", WHO))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "arbitrageai_native.llm_service\n", "")


def test_run_installs_in_what_the_command_starts(application: Path) -> None:
    (application / "start.py").write_text(
        "import multiprocessing\n"
        "def who(_):\n    import src.llm_service\n    return src.llm_service.__name__\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.map(who, [0]))\n"
    )
    ran = run(application, "--", *python("start.py"))
    assert (ran.stdout, ran.stderr) == ("['arbitrageai_native.llm_service']\n", "")


def test_run_keeps_the_exit_status_and_the_arguments(application: Path) -> None:
    ran = run(
        application,
        "--",
        *python("-c", "import sys, json; print(json.dumps(sys.argv)); sys.exit(7)", "--x", "--", "y"),
    )
    assert ran.returncode == 7
    assert json.loads(ran.stdout) == ["-c", "--x", "--", "y"]


def test_run_keeps_a_sitecustomize_and_the_path(
    application: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text("import builtins; builtins.customized = True\n")
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    ran = run(application, "--", *python("-c", f"print(customized); {WHO}"), PYTHONPATH=path)
    assert (ran.stdout, ran.stderr) == ("True\narbitrageai_native.llm_service\n", "")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ([], "COMMAND is missing"),
        (["--"], "COMMAND is missing"),
        (["--", "no-such-command"], "'no-such-command' can't be run: No such file or directory"),
    ],
)
def test_run_without_a_command_that_runs(application: Path, command: list[str], complaint: str) -> None:
    ran = run(application, *command)
    assert ran.returncode == 2
    assert complaint in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_importing_drop_in_is_light(tmp_path: Path) -> None:
    code = """
import sys
import arbitrageai_native.drop_in
print(sorted(name for name in ("asyncio", "logging", "arbitrageai_native._native") if name in sys.modules))"""
    assert output(tmp_path, code) == "[]"


# The package's own names


def test_the_packages_classes_are_the_drop_in_modules() -> None:
    import arbitrageai_native
    from arbitrageai_native import llm_service
    from arbitrageai_native.agent_execution import bid_lock_manager
    from arbitrageai_native.utils import async_helpers

    assert arbitrageai_native.LLMService is llm_service.LLMService
    assert arbitrageai_native.BidLockManager is bid_lock_manager.BidLockManager
    assert arbitrageai_native.safe_sleep is async_helpers.safe_sleep
