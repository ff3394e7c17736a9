"""The command `locks`."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.cli.main import main
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer
from testing_support.terminal import on_a_terminal

COMMAND = (sys.executable, "-m", "arbitrageai_native", "locks")
HOSTILE = "\x1b]0;PWNED\x1b\\x\x1b[2J\n\u202e\u009b\u2028"
HOSTILE_SHOWN = r"\x1b]0;PWNED\x1b\x\x1b[2J\n\u202e\x9b\u2028"
# In keys a backslash is doubled, so that every key looks different.
HOSTILE_KEY = HOSTILE_SHOWN.replace(r"\x1b\x\x1b", r"\x1b\\x\x1b")

AS_OLD_PROCESSES_MAKE_IT = """
    CREATE TABLE distributed_locks (
        id VARCHAR NOT NULL PRIMARY KEY, lock_key VARCHAR NOT NULL, holder_id VARCHAR NOT NULL,
        acquired_at FLOAT NOT NULL, expires_at FLOAT NOT NULL, created_at DATETIME);
    CREATE UNIQUE INDEX ix_distributed_locks_lock_key ON distributed_locks (lock_key);
"""

Execute = Callable[[str], None]


def run(*words: str) -> int:
    """Runs the command, as the package's own command line does."""
    return main(["locks", *words])


def acquire(url: str, *names: tuple[str, str], ttl: float = 300) -> None:
    """Acquire locks on "upwork", (posting, holder) each, and do not release them."""

    async def take() -> None:
        manager = BidLockManager(ttl, url)
        for posting, holder in names:
            assert await manager.acquire_lock("upwork", posting, holder_id=holder)
        await asyncio.sleep(min(2 * ttl, 0.02))

    asyncio.run(take())


@pytest.fixture
def url(table_url: str) -> str:
    """A database with two locks, one expired."""
    acquire(table_url, ("one", "[bold]scanner"))
    acquire(table_url, ("old", "default"), ttl=0.001)
    return table_url


@pytest.fixture
def execute(url: str, postgres_server: PostgresServer) -> Execute:
    """Return a function that changes the database directly, without the package."""

    def sqlite(statement: str) -> None:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute(statement)

    def postgres(statement: str) -> None:
        postgres_server.execute(statement)

    return sqlite if url.startswith("sqlite") else postgres


def add_row(execute: Execute, key: str, acquired_at: str, expires_at: str) -> None:
    """Insert a row that this package would not write."""
    row = f"'{key}', '{key}', 'somebody', {acquired_at}, {expires_at}, NULL"
    execute(f"INSERT INTO distributed_locks VALUES ({row})")


def held(url: str) -> list[str]:
    """The keys in the table."""
    return [lock.key for lock in asyncio.run(BidLockManager(300, url).locks()).held]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file, except shared memory (`-shm`), in which readers register."""
    return {path.name: b"" if path.suffix == ".db-shm" else path.read_bytes() for path in folder.iterdir()}


# --- list ---


@pytest.mark.parametrize("words", [[], ["list"]], ids=["default", "list"])
def test_list(url: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--database-url", url, *words) == 0
    output = capsys.readouterr().out
    for word in ["bid:lock:upwork:one", "[bold]scanner", "expired", "2 locks in "]:
        assert word in output
    assert output.isascii(), "nothing is drawn"


def test_the_option_stands_before_the_action_or_behind_it(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", "--database-url", url) == 0
    assert run("list", "--database-url", url, "--json") == 0
    assert (
        run("--database-url", "sqlite:////no/such/file", "release", "upwork:one", "--database-url", url) == 0
    )
    assert run("--database-url", url, "release", "upwork:old") == 0
    assert held(url) == []
    capsys.readouterr()
    for words in (["--json"], ["--json", "list"], ["list", "--json"]):
        assert run("--database-url", url, *words) == 0
        assert json.loads(capsys.readouterr().out)["locks"] == []
    assert run("--json", "release", "upwork:one", "--database-url", url) == 2
    assert "--json is an option of list, not of release" in capsys.readouterr().err


def test_the_file_env_names_the_database(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire(sqlite_url, ("one", "a"))
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / ".env").write_text(f"DATABASE_URL={sqlite_url}\n")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path / "app")
    listed = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60, check=True)
    assert "bid:lock:upwork:one" in listed.stdout
    for words in (["release", "upwork:one"], ["cleanup"]):
        subprocess.run([*COMMAND, *words], capture_output=True, timeout=60, check=True)
    assert held(sqlite_url) == []
    assert [file.name for file in Path().iterdir()] == [".env"]


def test_the_head_names_the_database_and_the_time(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    acquire(sqlite_url, ("one", "a"))
    assert run("--database-url", sqlite_url) == 0
    head = capsys.readouterr().out.splitlines()[0]
    path = re.escape(sqlite_url.removeprefix("sqlite:///"))
    assert re.fullmatch(rf"1 lock in SQLite {path} at \d\d:\d\d:\d\d", head)


def test_the_head_tells_no_password(
    postgres_server: PostgresServer,
    postgres_url: str,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = "hush/hush@42"
    base, _, _ = postgres_url.partition("?")
    urls = [
        (base.replace("postgres@", f"postgres:{quote(secret, safe='')}@"), "postgres", postgres_server.port),
        (f"{base}?password={quote(secret)}", "postgres", postgres_server.port),
    ]
    for url, database, port in urls:
        assert run("--database-url", url) == 0
        shown = capsys.readouterr()
        assert f"0 locks in PostgreSQL database {database} at 127.0.0.1:{port} at " in shown.out
        assert "hush" not in shown.out + shown.err
    assert run("--database-url", redis_url) == 0
    assert "0 locks in Redis database 0 at 127.0.0.1:" in capsys.readouterr().out


def test_looking_makes_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for words in (["list"], ["list", "--json"], ["watch"], ["release", "upwork:one"], ["cleanup"]):
        for url in ([], ["--database-url", "sqlite:///typo.db"]):
            assert run(*words, *url) == 2
            path = tmp_path / ("typo.db" if url else "data/tasks.db")
            assert capsys.readouterr().err == f"locks: there is no file {path}\n"
    assert run("cleanup", "--all", "--yes", "--database-url", "sqlite:///typo.db") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("has_table", [True, False])
def test_a_look_leaves_a_file_as_it_is(
    tmp_path: Path, journal: str, has_table: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE of_the_application (x)")
        connection.execute(f"PRAGMA journal_mode={journal}")
        if has_table:
            connection.executescript(AS_OLD_PROCESSES_MAKE_IT)
            row = "'x', 'bid:lock:m:p', 'h', 1, 2, NULL"
            connection.execute(f"INSERT INTO distributed_locks VALUES ({row})")
        connection.commit()
    before = contents(tmp_path)
    assert run("list", "--database-url", url) == 0
    assert ("bid:lock:m:p" in capsys.readouterr().out) == has_table
    assert contents(tmp_path) == before
    if not has_table:
        assert run("release", "upwork:one", "--database-url", url) == 1
        assert run("cleanup", "--database-url", url) == 0
        assert contents(tmp_path) == before


def test_a_look_makes_no_tables(postgres_server: PostgresServer, postgres_url: str) -> None:
    assert run("list", "--database-url", postgres_url) == 0
    assert run("release", "upwork:one", "--database-url", postgres_url) == 1
    assert run("cleanup", "--database-url", postgres_url) == 0
    tables = "SELECT count(*) FROM pg_class WHERE relname ~ '(distributed|arbitrageai)_lock'"
    assert postgres_server.execute(tables) == "0"


def test_a_look_writes_nothing_beside_those_who_lock(sqlite_url: str, tmp_path: Path) -> None:
    async def look() -> None:
        async with BidLockManager(300, sqlite_url) as manager, manager.with_lock("upwork", "one"):
            before = contents(tmp_path)
            status, output = await asyncio.to_thread(
                on_a_terminal, COMMAND, environment={"DATABASE_URL": sqlite_url}
            )
            assert status == 0
            assert "1 lock in" in output
            assert contents(tmp_path) == before

    asyncio.run(look())


ODD_TIMES = {
    "sqlite": ["9e999", "-9e999", "1e300", "-1e300", "3e11", "'text'", "x'00ff'"],
    "postgresql": ["'inf'", "'-inf'", "'nan'", "1e300", "-1e300", "3e11"],
}


def test_odd_rows_do_not_spoil_the_list(
    url: str, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ODD_TIMES[url.partition(":")[0]]
    for number, time in enumerate(odd):
        add_row(execute, f"bid:lock:odd:acquired-{number}", time, "9e9")
        add_row(execute, f"bid:lock:odd:expires-{number}", "1", time)
    assert run("list", "--database-url", url) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "[bold]scanner" in lines["bid:lock:upwork:one"]
    for number, time in enumerate(odd):
        assert "unknown" in lines[f"bid:lock:odd:acquired-{number}"], time
        known = "expired" if time.strip("'").startswith("-") else "unknown|never"
        assert re.search(rf" ({known})$", lines[f"bid:lock:odd:expires-{number}"]), time
    assert run("list", "--json", "--database-url", url) == 0
    listed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert len(listed["locks"]) == 2 + 2 * len(odd)
    assert run("release", "odd:acquired-0", "--database-url", url) == 0


def test_a_list_for_programs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json", "--database-url", url) == 0
    listed = json.loads(capsys.readouterr().out)
    old, one = listed["locks"]
    assert (old["key"], old["is_expired"]) == ("bid:lock:upwork:old", True)
    assert (one["holder_id"], one["is_expired"]) == ("[bold]scanner", False)
    assert one["expires_at"] == pytest.approx(one["acquired_at"] + 300)


def test_release_takes_a_key_as_it_is_listed(shared_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    postings = ["a\x1bb", "a\\x1bb", "a\nb", "a\\nb", "C:\\dir", "\u202e", "\\"]
    for posting in postings:
        acquire(shared_url, (posting, "somebody"))
    assert run("list", "--database-url", shared_url) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("bid:")}
    assert len(listed) == len(postings)
    for released, key in enumerate(sorted(listed), 1):
        assert run("release", key, "--database-url", shared_url) == 0
        assert capsys.readouterr().out.startswith(f"released {key}, ")
        assert len(held(shared_url)) == len(postings) - released


def test_names_reach_no_terminal_as_they_are(shared_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    acquire(shared_url, (HOSTILE, f"holder {HOSTILE}"))
    environment = {"DATABASE_URL": shared_url}
    _, on_terminal = on_a_terminal([*COMMAND, "list"], columns=400, environment=environment)
    assert run("--database-url", shared_url) == 0
    piped = capfd.readouterr().out
    for output in (on_terminal, piped):
        without_colours = re.sub(r"\x1b\[[0-9;]*m", "", output)
        assert f"bid:lock:upwork:{HOSTILE_KEY}  holder {HOSTILE_SHOWN}  " in without_colours
        assert not any(character in without_colours for character in "\x1b\u202e\u009b\u2028")
    assert run("release", f"upwork:{HOSTILE}", "--database-url", shared_url) == 0
    assert run("release", f"upwork:{HOSTILE}", "--database-url", shared_url) == 1
    released = capfd.readouterr()
    assert HOSTILE_KEY in released.out
    assert HOSTILE_KEY in released.err
    assert released.out.count("\n") == released.err.count("\n") == 1


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_keys_are_whole_on_a_terminal_of_any_width(sqlite_url: str, columns: int) -> None:
    posting, holder = "~01" + "b7" * 20, "scanner-1@host-of-some-length"
    acquire(sqlite_url, (posting, holder), ("a", "b"))
    status, output = on_a_terminal(COMMAND, columns=columns, environment={"DATABASE_URL": sqlite_url})
    assert status == 0
    assert f"upwork:{posting}" in output
    assert holder in output
    assert ("bid:lock:" in output) == (columns == 200)
    assert "…" not in output
    assert not any(character in output for character in "│┃─━|")


# --- watch ---


def test_watch_until_ctrl_c(sqlite_url: str) -> None:
    acquire(sqlite_url, ("one", "a"))
    words = ["watch", "--every", "0.05", "--database-url", sqlite_url]
    status, output = on_a_terminal([*COMMAND, *words], answer=("bid:lock:upwork:one", b"\x03"))
    assert status == 130
    assert "1 lock in SQLite" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_bad_interval(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("watch", "--every", seconds)
    assert end.value.code == 2
    assert seconds in capsys.readouterr().err


# --- release ---


def test_release(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--database-url", url, "release", "upwork:one") == 0
    assert held(url) == ["bid:lock:upwork:old"]
    output = capsys.readouterr().out
    assert re.match(r"released bid:lock:upwork:one, which \[bold\]scanner had held for \d+s; ", output)
    assert "its holder detects the loss within a second" in output
    assert run("--database-url", url, "release", "upwork:one") == 1
    assert "nobody holds upwork:one" in capsys.readouterr().err
    assert run("--database-url", url, "release", "bid:lock:upwork:old") == 0
    assert "bid:lock:upwork:old, which had expired; default had held it" in capsys.readouterr().out


# --- cleanup ---


@pytest.mark.parametrize("words", [[], ["--expired"]], ids=["default", "expired"])
def test_cleanup_deletes_expired_rows_alone(
    url: str, execute: Execute, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    add_row(execute, "bid:lock:fiverr:a:b c", "1", "2")
    foreign = ["bid:lock:fiverr", "bid:lock::x", "bid:lock:x:", "x:y", "BID:LOCK:x:y"]
    for key in foreign:
        add_row(execute, key, "1", "2")
    add_row(execute, "bid:lock:x:y", "1", "9e9")
    assert run("--database-url", url, "cleanup", *words) == 0
    assert sorted(held(url)) == sorted(["bid:lock:upwork:one", "bid:lock:x:y", *foreign])
    assert capsys.readouterr().out == "deleted 2 expired locks\n"
    assert run("--database-url", url, "cleanup", *words) == 0
    assert capsys.readouterr().out == "deleted 0 expired locks\n"


def test_cleanup_of_rows_with_odd_expiries_leaves_what_may_be_held(
    url: str, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ODD_TIMES[url.partition(":")[0]]
    for number, time in enumerate(odd):
        add_row(execute, f"bid:lock:odd:{number}", "1", time)
    assert run("--database-url", url, "cleanup") == 0
    past = sum(time.strip("'").startswith("-") for time in odd)
    assert capsys.readouterr().out == f"deleted {1 + past} expired locks\n"


def test_everything_is_released_after_a_question(url: str) -> None:
    acquire(url, *((f"job-{number}", f"scanner-{number}") for number in range(4)))
    words = [*COMMAND, "cleanup", "--all", "--database-url", url]
    question = "release 5 locks that are held? [bold]scanner, scanner-0, scanner-1 and 2 more; y/N "
    for answer in (b"n\n", b"\n", b"\x04"):
        status, output = on_a_terminal(words, answer=(question, answer))
        assert status == 1, output
        assert "nothing released" in output
        # Every lock and its holder is listed in front of the question.
        listed, _, _ = output.partition(question)
        assert all(f"upwork:job-{number} " in listed for number in range(4))
        assert all(f"scanner-{number} " in listed for number in range(4))
    status, output = on_a_terminal(words, answer=(question, b"\x03"))
    assert status == 130, output
    assert len(held(url)) == 6
    status, output = on_a_terminal(words, answer=(question, b"y\n"))
    assert status == 0, output
    assert "released 6 locks" in output
    assert held(url) == []


def test_without_a_terminal_everything_is_released_only_with_yes(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # piped input is no answer
    assert run("cleanup", "--all", "--database-url", url) == 2
    assert len(held(url)) == 2
    error = capsys.readouterr().err
    assert "would release 1 lock that is held ([bold]scanner)" in error
    assert "--yes" in error
    assert run("cleanup", "--all", "--yes", "--database-url", url) == 0
    assert capsys.readouterr().out == "released 2 locks\n"
    assert held(url) == []


def test_expired_and_all_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("cleanup", "--expired", "--all")
    assert end.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_database_that_does_not_answer(sqlite_url: str) -> None:
    acquire(sqlite_url, ("one", "a"))
    locked, away = ["--database-url", sqlite_url], ["--database-url", "redis://127.0.0.1:9/0"]
    expected = {
        ("cleanup", *locked): "database is locked",
        ("cleanup", "--all", "--yes", *locked): "database is locked",
        ("release", "upwork:one", *locked): "database is locked",
        ("list", *away): "Redis database 0 at 127.0.0.1:9",
    }
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        running = [
            subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for words in expected
        ]
        for process, message in zip(running, expected.values(), strict=True):
            output, error = process.communicate(timeout=60)
            assert (process.returncode, output, error.count("\n")) == (2, "", 1)
            assert message in error
        other.execute("ROLLBACK")
    assert held(sqlite_url) == ["bid:lock:upwork:one"]


def test_a_database_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.db").write_text("this is no database, and longer than its header would be " * 5)
    urls = {
        "sqlite:////no/such/folder/locks.db": "there is no file /no/such/folder/locks.db",
        f"sqlite:///{tmp_path}": "is a directory",
        "sqlite:////dev/null": "/dev/null is not a file",
        f"sqlite:///{tmp_path / 'no.db'}": "not a database",
        "mysql://host/db": "unknown scheme",
        "postgresql://127.0.0.1:9/db": "PostgreSQL database db at 127.0.0.1:9",
    }
    for url, message in urls.items():
        for words in (["list"], ["cleanup"]):
            assert run(*words, "--database-url", url) == 2
            shown = capsys.readouterr()
            assert message in shown.err
            assert shown.err.count("\n") == 1
            assert shown.out == ""


def test_redis(redis_url: str, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    acquire(redis_url, ("one", "scanner"))
    redis_server.execute("SET", "bid_lock:upwork:old", "an old process", "PX", 60_000)
    redis_server.execute("SET", "bid_lock:upwork:for ever", "an old process")
    redis_server.execute("SET", "upwork:one", "the application's own")
    assert run("--database-url", redis_url) == 0
    output = capsys.readouterr().out
    for word in [
        "bid:lock:upwork:one",
        "scanner",
        "bid:lock:upwork:old",
        "an old process",
        "3 locks",
        "never",
    ]:
        assert word in output
    assert run("--database-url", redis_url, "release", "upwork:one") == 0
    assert "which scanner had held for" in capsys.readouterr().out
    assert run("--database-url", redis_url, "release", "bid:lock:upwork:for ever") == 0
    assert held(redis_url) == ["bid:lock:upwork:old"]
    assert run("--database-url", redis_url, "release", "upwork:one") == 1
    for words in (["cleanup"], ["cleanup", "--expired"]):
        assert run("--database-url", redis_url, *words) == 0
        assert held(redis_url) == ["bid:lock:upwork:old"]
    assert run("--database-url", redis_url, "cleanup", "--all", "--yes") == 0
    assert "released 1 lock\n" in capsys.readouterr().out
    assert held(redis_url) == []
    assert redis_server.execute("GET", "upwork:one") == "the application's own"
