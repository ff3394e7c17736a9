"""The command `doctor`: it names every fault of a set-up, changes nothing, and tells no secret."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from arbitrageai_native import llm_health_check
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.doctor import Finding, Level, diagnose
from arbitrageai_native.doctor.secrets import Secrets
from arbitrageai_native.testing import ModelServer
from testing_support.ports import free_port
from testing_support.servers.faulty_http import FaultyServer, answer
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer
from testing_support.servers.system import from_package
from testing_support.terminal import on_a_terminal

SECRET = "hush-hush-42"
HOUR = 3600
Findings = dict[str, dict[str, str]]


class Setup:
    """What the application is told, and what the doctor says of it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.descriptors: int | None = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command in a process with this environment, and none of ours."""
        ours = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        ended = subprocess.run(
            [sys.executable, "-m", "arbitrageai_native", "doctor", *arguments],
            cwd=self.folder,
            env={**ours, **self.environment},
            preexec_fn=self._limit,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert SECRET not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    def _limit(self) -> None:
        if self.descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))

    def findings(self, *arguments: str, exit_status: int = 1) -> Findings:
        """What it found, by the name of the check."""
        ended = self.run("--json", *arguments)
        assert ended.returncode == exit_status, ended.stdout + ended.stderr
        return {finding["check"]: finding for finding in json.loads(ended.stdout)["findings"]}

    def only_error(self, *arguments: str) -> dict[str, str]:
        """The one error that it found, whose fix is one sentence."""
        found = self.findings(*arguments)
        (error,) = [finding for finding in found.values() if finding["level"] == "error"]
        assert error["fix"].endswith(".")
        return error


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    """A model server that knows one key."""
    with ModelServer(api_key=SECRET) as server:
        yield server


@pytest.fixture
def healthy(tmp_path: Path, model: ModelServer, postgres_url: str, redis_url: str) -> Setup:
    """Nothing is wrong with it."""
    environment = {
        "DATABASE_URL": postgres_url.replace("postgres@", f"postgres:{SECRET}@"),
        "REDIS_URL": redis_url,
        "BASE_URL": model.base_url,
        "API_KEY": SECRET,
        "LOCAL_BASE_URL": model.base_url,
        "LOCAL_API_KEY": SECRET,
    }
    return Setup(tmp_path, environment)


def test_a_healthy_set_up_has_no_fault(healthy: Setup, model: ModelServer) -> None:
    (healthy.folder / ".env").write_text("CLOUD_MODEL=gpt-4o-mini\n")
    before = len(model.requests)

    found = healthy.findings(exit_status=0)

    assert {name: finding["level"] for name, finding in found.items()} == dict.fromkeys(found, "ok")
    assert "PostgreSQL 1" in found["database"]["detail"]
    assert "distributed_locks" in found["lock tables"]["detail"]
    assert found["Redis"]["detail"].startswith("Redis database 0 at 127.0.0.1")
    assert found[".env"]["detail"].endswith(".env")
    assert "tokio" in found["versions"]["detail"]
    assert {request.path for request in model.requests[before:]} == {"/v1/models"}


def test_a_path_is_whole_on_a_terminal_of_any_width_and_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("BASE_URL", raising=False)
    folder = tmp_path / ("a-rather-long-name-" * 4) / "\x1b[2Jhostile\n"
    folder.mkdir(parents=True)
    (folder / ".env").write_text(f"DATABASE_URL=sqlite:///{folder.parent}/locks.db\nBASE_URL=nonsense\n")
    command = [sys.executable, "-m", "arbitrageai_native", "doctor"]
    piped = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=110, check=False
    )
    status, on_terminal = on_a_terminal(command, columns=60, folder=str(folder))
    assert piped.returncode == status == 1
    for output in (piped.stdout, re.sub(r"\x1b\[[0-9;]*m", "", on_terminal)):
        assert f"SQLite database {folder.parent}/locks.db" in output
        assert rf"{folder.parent}/\x1b[2Jhostile\n/.env" in output
        assert "\x1b" not in output
        assert not any(character in output for character in "│┃─━…")


def test_the_table_for_people_says_the_same(healthy: Setup) -> None:
    healthy.environment["BASE_URL"] = "nonsense"
    ended = healthy.run()
    assert ended.returncode == 1
    assert "BASE_URL" in ended.stdout
    assert "Set BASE_URL to the server's URL" in ended.stdout
    assert "0 warning, 1 error" in ended.stdout


def test_nothing_is_made_in_a_server(healthy: Setup, postgres_server: PostgresServer) -> None:
    healthy.findings(exit_status=0)
    tables = "SELECT count(*) FROM pg_class WHERE relname ~ '(distributed|arbitrageai)_lock'"
    assert postgres_server.execute(tables) == "0"


def test_a_file_that_is_not_there_is_not_made(healthy: Setup) -> None:
    healthy.environment["DATABASE_URL"] = f"sqlite:///{healthy.folder}/locks.db"
    assert "made with the first lock" in healthy.findings(exit_status=0)["lock tables"]["detail"]
    del healthy.environment["DATABASE_URL"]
    healthy.findings(exit_status=0)
    assert not list(healthy.folder.iterdir())


async def test_the_tables_that_are_there_are_found(healthy: Setup, table_url: str) -> None:
    async with BidLockManager(300, table_url) as manager:
        assert await manager.acquire_lock("upwork", "1")
        found = healthy.findings("--database-url", table_url, exit_status=0)
    assert found["lock tables"]["detail"] == "all there"


def test_a_file_that_is_looked_at_has_no_journal_of_ours(healthy: Setup) -> None:
    file = healthy.folder / "locks #1%20.db"
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        connection.execute("CREATE TABLE bids (id INTEGER)")
    before = file.read_bytes()

    found = healthy.findings("--database-url", f"sqlite:///{file}", exit_status=0)

    assert "made with the first lock" in found["lock tables"]["detail"]
    assert [path.name for path in healthy.folder.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_a_wrong_password(healthy: Setup, postgres_server: PostgresServer) -> None:
    rules = postgres_server.data_folder / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    postgres_server.execute("ALTER ROLE postgres PASSWORD 'another'")
    postgres_server.execute("SELECT pg_reload_conf()")
    try:
        error = healthy.only_error()
    finally:
        rules.write_text(before)
        postgres_server.execute("SELECT pg_reload_conf()")
    assert error["check"] == "database"
    assert "password authentication failed" in error["detail"]
    assert "password" in error["fix"]


def test_a_database_that_is_not_there(healthy: Setup) -> None:
    healthy.environment["DATABASE_URL"] = f"postgresql://scanner:{SECRET}@127.0.0.1:{free_port()}/bids"
    error = healthy.only_error()
    assert error["check"] == "database"
    assert "refused" in error["detail"].lower()


def test_a_file_that_is_no_database(healthy: Setup) -> None:
    (healthy.folder / "locks.db").write_text("not a database, but long enough to have been one" * 100)
    error = healthy.only_error("--database-url", f"sqlite:///{healthy.folder}/locks.db")
    assert "not a database" in error["detail"]


def test_a_folder_that_is_not_there(healthy: Setup) -> None:
    healthy.environment["DATABASE_URL"] = f"sqlite:///{healthy.folder}/nowhere/locks.db"
    error = healthy.only_error()
    assert "nowhere does not exist" in error["detail"]
    assert error["fix"] == "Make the folder."


def test_an_unreachable_redis(healthy: Setup) -> None:
    healthy.environment["REDIS_URL"] = f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"
    error = healthy.only_error()
    assert error["check"] == "Redis"
    assert "REDIS_URL" in error["fix"]


def test_redis_is_no_fault_where_nobody_wants_it(healthy: Setup) -> None:
    del healthy.environment["REDIS_URL"]
    assert "not configured" in healthy.findings(exit_status=0)["Redis"]["detail"]


def test_a_redis_that_refuses_the_password(healthy: Setup, redis_server: RedisServer) -> None:
    redis_server.execute("ACL", "SETUSER", "locker", "on", ">another", "~*", "+@all")
    try:
        healthy.environment["REDIS_URL"] = f"redis://locker:{SECRET}@127.0.0.1:{redis_server.port}/0"
        error = healthy.only_error()
    finally:
        redis_server.execute("ACL", "DELUSER", "locker")
    assert error["check"] == "Redis"
    assert "password" in error["detail"]


OLD_SHAPE = (
    "CREATE TABLE distributed_locks (id VARCHAR PRIMARY KEY, lock_key VARCHAR NOT NULL, owner VARCHAR)"
)


def test_a_table_of_another_shape(healthy: Setup, table_url: str, postgres_server: PostgresServer) -> None:
    if table_url.startswith("sqlite"):
        with closing(sqlite3.connect(table_url.removeprefix("sqlite:///"))) as connection:
            connection.execute(OLD_SHAPE)
    else:
        postgres_server.execute(OLD_SHAPE)
    error = healthy.only_error("--database-url", table_url)
    assert error["check"] == "lock tables"
    assert "column holder_id is missing" in error["detail"]


def test_a_role_that_may_not_make_the_tables(healthy: Setup, postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM public")
    url = postgres_server.url().replace("postgres@", "guest@")
    error = healthy.only_error("--database-url", url)
    assert error["check"] == "database"
    assert "CREATE TABLE IF NOT EXISTS distributed_locks" in error["detail"]


@pytest.mark.parametrize(
    ("offset", "level"), [(2, "warning"), (-2, "warning"), (HOUR, "error"), (-HOUR, "error")]
)
def test_a_skewed_clock(healthy: Setup, offset: int, level: str) -> None:
    healthy.environment |= {
        "LD_PRELOAD": str(from_package("libfaketime", "/usr/lib/*/faketime/libfaketime.so.1")),
        "FAKETIME": f"{offset:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    found = healthy.findings(exit_status=1 if level == "error" else 0)
    for check in ("clock", "Redis's clock"):
        assert found[check]["level"] == level
        assert ("behind" if offset > 0 else "ahead") in found[check]["detail"]
        assert "NTP" in found[check]["fix"]


def test_how_much_a_clock_may_be_wrong_depends_on_the_locks_time(healthy: Setup) -> None:
    healthy.environment |= {
        "LD_PRELOAD": str(from_package("libfaketime", "/usr/lib/*/faketime/libfaketime.so.1")),
        "FAKETIME": "+20",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    assert healthy.findings("--ttl", "30")["clock"]["level"] == "error"
    assert healthy.findings("--ttl", "300", exit_status=0)["clock"]["level"] == "warning"


def test_a_dead_model_endpoint(healthy: Setup) -> None:
    healthy.environment["BASE_URL"] = f"http://user:{SECRET}@127.0.0.1:{free_port()}/v1"
    error = healthy.only_error()
    assert error["check"] == "model endpoint"
    assert "refused" in error["detail"].lower()
    assert "BASE_URL" in error["fix"]


def test_a_model_server_that_refuses_the_key(healthy: Setup) -> None:
    healthy.environment["API_KEY"] = f"{SECRET}-wrong"
    error = healthy.only_error()
    assert "refuses the key" in error["detail"]


@pytest.mark.parametrize(
    ("statuses", "level", "said"),
    [
        ([500], "error", "answers with 500"),
        ([429], "warning", "answers with 429"),
        ([404, 200], "ok", "without a list of models"),
        ([404, 404, 404, 404], "warning", "has no /models there"),
    ],
)
def test_what_a_model_server_answers(healthy: Setup, statuses: list[int], level: str, said: str) -> None:
    with FaultyServer(*(answer(status=status) for status in statuses)) as server:
        healthy.environment["BASE_URL"] = server.base_url
        found = healthy.findings(exit_status=1 if level == "error" else 0)["model endpoint"]
    assert found["level"] == level
    assert said in found["detail"]


@pytest.mark.parametrize("trusted", [True, False])
def test_the_certificate_of_a_model_server(healthy: Setup, trusted: bool) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(healthy.folder / "authority.pem")
    if trusted:
        healthy.environment["SSL_CERT_FILE"] = str(healthy.folder / "authority.pem")
    with FaultyServer(answer(), tls=context) as server:
        healthy.environment["BASE_URL"] = server.base_url
        if trusted:
            found = healthy.findings(exit_status=0)
            assert found["model endpoint"]["detail"].endswith("its certificate verified")
            assert found["certificates"]["detail"].startswith("1 in ")
        else:
            error = healthy.only_error()
            assert error["check"] == "model endpoint"
            assert "SSL_CERT_FILE" in error["fix"]


def test_a_local_model_that_nobody_asked_for_may_be_away(healthy: Setup) -> None:
    del healthy.environment["LOCAL_BASE_URL"]
    found = healthy.findings(exit_status=0)["local model"]
    assert (found["level"], found["detail"].split(" ")[0]) == ("warning", "http://localhost:11434/v1")


def test_servers_that_never_answer_are_given_up_together(healthy: Setup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        healthy.environment |= {
            "BASE_URL": f"http://127.0.0.1:{port}/v1",
            "DATABASE_URL": f"postgresql://scanner@127.0.0.1:{port}/bids",
            "REDIS_URL": f"redis://127.0.0.1:{port}",
        }
        started = time.monotonic()
        found = healthy.findings()
        assert time.monotonic() - started < 15
    errors = [check for check, finding in found.items() if finding["level"] == "error"]
    assert errors == ["database", "Redis", "model endpoint"]


def test_a_certificate_file_that_cannot_be_read(healthy: Setup) -> None:
    healthy.environment["SSL_CERT_FILE"] = "/no/such/file.pem"
    found = healthy.findings()
    assert found["certificates"]["level"] == "error"
    assert "/no/such/file.pem" in found["certificates"]["detail"]
    assert "SSL_CERT_FILE" in found["certificates"]["fix"]


def test_too_few_descriptors(healthy: Setup) -> None:
    healthy.descriptors = 64
    error = healthy.only_error()
    assert error["check"] == "descriptors"
    assert error["detail"].startswith("64 at most")
    assert "ulimit -n" in error["fix"]


def test_a_number_of_threads_that_is_none(healthy: Setup) -> None:
    healthy.environment["ARBITRAGEAI_NATIVE_WORKER_THREADS"] = "many"
    found = healthy.findings()
    assert found["runtime"]["level"] == "error"
    assert '"many"' in found["runtime"]["detail"]


def test_a_proxy_before_the_local_model(healthy: Setup) -> None:
    healthy.environment["HTTP_PROXY"] = f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    found = healthy.findings()["proxies"]
    assert found["level"] == "warning"
    assert found["fix"] == "Add 127.0.0.1 to NO_PROXY."


def test_what_the_environment_overrules_is_named(healthy: Setup) -> None:
    (healthy.folder / ".env").write_text(f"API_KEY={SECRET}-old\n")
    assert healthy.findings(exit_status=0)[".env"]["detail"].endswith("for API_KEY")


async def test_an_application_asks_for_its_own_circuits(
    healthy: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in healthy.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(healthy.folder)
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)
    checker = llm_health_check.get_health_checker()
    checker.register_endpoint("http://127.0.0.1:1/v1", failure_threshold=1)
    checker.record_failure("http://127.0.0.1:1/v1")

    (found,) = [finding for finding in await diagnose() if finding.check == "circuit breakers"]

    assert (found.level, found.detail) == (Level.WARNING, "http://127.0.0.1:1/v1 is open")


@pytest.mark.parametrize("password", ["open sesame", "se%same"])
def test_a_secret_that_something_says_is_hidden(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("API_KEY", SECRET)
    secrets = Secrets.of_the_environment(f"postgresql://me:{quote(password)}@host/db")
    said = Finding("database", Level.ERROR, f"{SECRET}, {password} and {quote(password)} are wrong", password)
    assert secrets.hide(said) == Finding("database", Level.ERROR, "***, *** and *** are wrong", "***")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ttl", "soon"], "'soon' is not a number of seconds"),
        (["--database-url", "mysql://host/db"], "unknown scheme"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_bad_usage(healthy: Setup, arguments: list[str], said: str) -> None:
    ended = healthy.run(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_applications_own_database_is_looked_at(healthy: Setup) -> None:
    module = healthy.folder / "src" / "api" / "database.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        "from sqlalchemy import create_engine\n"
        f"engine = create_engine('sqlite:///{healthy.folder}/applications.db')\n"
    )
    assert f"{healthy.folder}/applications.db" in healthy.findings(exit_status=0)["database"]["detail"]
    module.write_text(f"raise RuntimeError('postgresql://me:{SECRET}@host is away')\n")
    error = healthy.only_error()
    assert "src.api.database" in error["detail"]
    assert "***@host is away" in error["detail"]


def test_it_says_why_the_locks_are_in_this_database(healthy: Setup) -> None:
    choice = healthy.findings(exit_status=0)["database choice"]
    assert (choice["level"], "named by DATABASE_URL" in choice["detail"]) == ("ok", True)
    module = healthy.folder / "src" / "api" / "database.py"
    module.parent.mkdir(parents=True)
    module.write_text("import os\nDATABASE_URL = os.environ['DATABASE_URL']\n")
    choice = healthy.findings(exit_status=0)["database choice"]
    assert (choice["level"], "src.api.database defines it" in choice["detail"]) == ("ok", True)


def test_a_variable_that_old_processes_do_not_read_is_named(healthy: Setup) -> None:
    module = healthy.folder / "src" / "api" / "database.py"
    module.parent.mkdir(parents=True)
    module.write_text("import os\nDATABASE_URL = os.environ['DATABASE_URL']\n")
    (healthy.folder / ".env").write_text("USE_REDIS_LOCKS=false\n")
    choice = healthy.findings(exit_status=0)["database choice"]
    assert choice["level"] == "warning"
    assert "USE_REDIS_LOCKS is set by the .env file" in choice["detail"]
