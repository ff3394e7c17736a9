"""A process of the originals beside ours: both mean the same locks, however the application is set up.

The old process runs the reference in a Python of its own and keeps its lock; ours then asks for the same one.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testing_support.servers.redis import RedisServer
from tests.drop_in.support import ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
OLD, NEW = "testing_support.reference.src", "arbitrageai_native"
Run = Callable[..., str]

# The application's own modules: the database is in the project's folder, and `SCHEMA` chooses a schema as
# applications do.
DATABASE = """
import os
from pathlib import Path
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

folder = Path(__file__).parents[2] / "data"
folder.mkdir(exist_ok=True)
url = os.getenv("APPLICATION_URL", f"sqlite:///{folder / 'tasks.db'}")
schema = os.getenv("SCHEMA")
arguments = {"options": f"-c search_path={schema}"} if schema else {}
engine = create_engine(url, connect_args=arguments)
SessionLocal = sessionmaker(bind=engine)
"""
MAKE_TABLE = """
from testing_support.reference.src.database import Base
import src.api.database
Base.metadata.create_all(src.api.database.engine)
"""
FACTORY = """
import asyncio, sys
from {prefix}.agent_execution.bid_lock_manager_factory import create_bid_lock_manager

async def main():
    manager = await create_bid_lock_manager(ttl=60)
    acquired = await manager.acquire_lock("upwork", "p1", timeout=0, holder_id=sys.argv[1])
    print(type(manager).__name__, acquired)

asyncio.run(main())
"""
ACQUIRE = """
import asyncio, sys
from {prefix}.agent_execution.bid_lock_manager import BidLockManager

print(asyncio.run(BidLockManager(ttl=60).acquire_lock("upwork", "p1", timeout=0, holder_id=sys.argv[1])))
"""
PATCHED = """
import asyncio, os, sys
from unittest.mock import patch
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from testing_support.reference.src.database import Base
from {prefix}.agent_execution.bid_lock_manager import BidLockManager

engine = create_engine(f"sqlite:///{{os.getcwd()}}/of_the_test.db")
Base.metadata.create_all(engine)

async def main():
    with patch.object(BidLockManager, "_get_db", lambda self: Session(engine)):
        print(await BidLockManager().acquire_lock("upwork", "p2", timeout=0, holder_id=sys.argv[1]))
        await BidLockManager().cleanup_all()
        print(await BidLockManager().acquire_lock("upwork", "p2", timeout=0, holder_id=sys.argv[1]))

asyncio.run(main())
"""
RELEASE_ON_CLASS = """
import asyncio, sys
from {prefix}.agent_execution.bid_lock_manager import BidLockManager

print(asyncio.run(BidLockManager.release_lock("upwork", "p1", sys.argv[1])))
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a script as an old or a new process; returns what it printed."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "src" / "api").mkdir(parents=True)
    (project / "src" / "api" / "database.py").write_text(DATABASE)
    elsewhere.mkdir()
    inherited = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}

    def run(script: str, prefix: str = OLD, holder: str = "me", **variables: str) -> str:
        path = os.pathsep.join([str(project), str(REPOSITORY)])
        return subprocess.check_output(
            [sys.executable, "-c", script.format(prefix=prefix), holder],
            cwd=elsewhere,
            env={**inherited, "PYTHONPATH": path, **variables},
            text=True,
        ).strip()

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.db"))


@pytest.mark.parametrize("switch", ["", " true", "false", "no"])
def test_an_empty_switch_means_the_database_to_both(run: Run, redis_server: RedisServer, switch: str) -> None:
    variables = {"USE_REDIS_LOCKS": switch, "REDIS_URL": f"redis://127.0.0.1:{redis_server.port}/0"}
    run(MAKE_TABLE)
    assert run(FACTORY, OLD, "old", **variables) == "BidLockManager True"
    assert run(FACTORY, NEW, "new", **variables) == "BidLockManager False"


def test_without_a_database_url_both_use_the_applications_own(run: Run, tmp_path: Path) -> None:
    run(MAKE_TABLE)
    assert run(ACQUIRE, OLD, "old") == "True"
    assert run(ACQUIRE, NEW, "new") == "False"
    assert files(tmp_path) == ["project/data/tasks.db"]


def test_a_search_path_in_connect_args_means_the_same_schema_to_both(run: Run, postgres_url: str) -> None:
    from sqlalchemy import create_engine, text

    url = postgres_url.replace("postgresql:", "postgresql+psycopg2:")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA application"))
    variables = {"APPLICATION_URL": url, "SCHEMA": "application"}
    run(MAKE_TABLE, **variables)
    assert run(ACQUIRE, OLD, "old", **variables) == "True"
    assert run(ACQUIRE, NEW, "new", **variables) == "False"
    with engine.connect() as connection:
        schemas = connection.scalars(
            text("SELECT table_schema FROM information_schema.tables WHERE table_name = 'distributed_locks'")
        ).all()
    engine.dispose()
    assert schemas == ["application"], "no second table was made"


def test_a_get_db_that_is_patched_on_the_class_keeps_off_the_old_processs_locks(
    run: Run, tmp_path: Path
) -> None:
    run(MAKE_TABLE)
    assert run(ACQUIRE, OLD, "old") == "True"
    assert run(PATCHED, NEW, "test").splitlines() == ["True", "True"]
    assert run(ACQUIRE, NEW, "new") == "False", "the old process's lock is still there"
    assert files(tmp_path) == ["elsewhere/of_the_test.db", "project/data/tasks.db"]


@pytest.mark.parametrize(("first", "second"), [(OLD, NEW), (NEW, OLD)], ids=["old-new", "new-old"])
def test_release_lock_on_the_class_releases_the_others_lock_by_its_holder(
    run: Run, first: str, second: str
) -> None:
    run(MAKE_TABLE)
    # A lock of ours is released at the end of its process unless that is killed.
    keep = ACQUIRE if first == OLD else f"{ACQUIRE}\nsys.stdout.flush()\nimport os\nos._exit(0)\n"
    assert run(keep, first, "first") == "True"
    assert run(RELEASE_ON_CLASS, second, "second") == "False"
    assert run(ACQUIRE, second, "second") == "False"
    assert run(RELEASE_ON_CLASS, second, "first") == "True"
    assert run(ACQUIRE, second, "second") == "True"


SLOW_IMPORT = """
import asyncio, sys, time
from {prefix}.agent_execution.bid_lock_manager import BidLockManager

async def main():
    worst, last, done = 0.0, time.monotonic(), False

    async def tick():
        nonlocal worst, last
        while not done:
            await asyncio.sleep(0.005)
            worst, last = max(worst, time.monotonic() - last), time.monotonic()

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    acquired = await BidLockManager(ttl=60).acquire_lock("upwork", "p1", timeout=20)
    done = True
    await ticker
    print(acquired, worst < 1.5)

asyncio.run(main())
"""


def test_a_slow_import_of_the_applications_module_does_not_stop_the_loop(run: Run, tmp_path: Path) -> None:
    run(MAKE_TABLE)
    module = tmp_path / "project" / "src" / "api" / "database.py"
    module.write_text(f"import time\ntime.sleep(2)\n{DATABASE}")
    assert run(SLOW_IMPORT, NEW) == "True True"
