"""Whatever SQLAlchemy reads in a URL, the locks read too: a property over generated URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.engine import URL

from arbitrageai_native import _native
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

# Characters that end a part of a URL, or are escaped in it, and a few that are neither.
ODD = st.text(st.sampled_from("ab4/?#:&=%+ é€\\'\"[]@.-_~;,!$()*"), min_size=1, max_size=8)
PLAIN = st.text(st.sampled_from("ab4%2F+é.-_"), min_size=1, max_size=8)
HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,8}", fullmatch=True),
    st.ip_addresses().map(lambda address: f"[{address}]" if address.version == 6 else str(address)),
)
PORTS = st.one_of(st.none(), st.integers(1, 65535))
SECRET = "s3cr3t"

_SETTINGS = settings(deadline=None)  # the machine is shared


def place(url: str) -> str:
    """Return what the locks read: the kind, the file or the server, without secrets."""
    return _native.LockManager(url).place


def server(url: str, default_port: int) -> str:
    """Return the host and the port that SQLAlchemy reads."""
    read = make_url(url)
    return f"{read.host}:{read.port or default_port}"


@_SETTINGS
@given(user=PLAIN, password=ODD, host=HOSTS, port=PORTS, database=PLAIN, name=ODD)
@example(user="me", password="a/b?c#d", host="[::1]", port=5, database="d%20e", name="a+b c")
def test_servers(user: str, password: str, host: str, port: int | None, database: str, name: str) -> None:
    password = password.replace("@", "%40")
    authority = f"{host}:{port}" if port else host
    url = f"postgresql+asyncpg://{user}:{SECRET}{password}@{authority}/{database}?application_name={quote(name)}"
    read = make_url(url)
    # Older versions of SQLAlchemy do not decode the name of a database.
    assert place(url) == f"PostgreSQL database {unquote(str(read.database))} at {server(url, 5432)}"
    number = len(database)
    url = f"redis://{user}:{SECRET}{password}@{authority}/{number}?client_name={quote(name)}"
    assert place(url) == f"Redis database {number} at {server(url, 6379)}"


@_SETTINGS
@given(user=ODD, password=ODD, host=HOSTS, port=PORTS, database=ODD, name=ODD)
def test_what_sqlalchemy_writes(
    user: str, password: str, host: str, port: int | None, database: str, name: str
) -> None:
    parameters = {"application_name": name, "connect_timeout": "3"}
    database = (
        database.replace("%", "").replace("?", "").replace("@", "") or "d"
    )  # older versions escape none
    written = URL.create("postgresql", user, password, host.strip("[]"), port, database, parameters)
    url = written.render_as_string(hide_password=False)
    assert place(url) == f"PostgreSQL database {make_url(url).database} at {server(url, 5432)}"


@_SETTINGS
@given(
    st.lists(st.sampled_from(["a", "b c", "..", ".", "é", "x%20y", "a+b", "file:a", "#", "a&b"]), min_size=1)
)
def test_files(parts: list[str]) -> None:
    path = "/".join(parts)
    read = make_url(f"sqlite:///{path}").database
    # As above for older versions.
    expected = os.path.realpath(unquote(str(read)))
    assert place(f"sqlite:///{path}") == f"SQLite {expected}"
    assert place(f"sqlite+aiosqlite:///{path}?timeout=5&mode=memory") == f"SQLite {expected}"
    absolute = quote(f"/no/such/folder/{path}")
    assert place(f"sqlite:///{absolute}") == f"SQLite {os.path.realpath(Path('/no/such/folder') / path)}"


@_SETTINGS
@given(
    scheme=st.sampled_from(
        ["postgresql", "postgres+psycopg2", "redis", "rediss", "unix", "sqlite", "mysql", ""]
    ),
    before=st.text(st.sampled_from("x/?#:&=%+@[] 5"), max_size=8),
    between=st.text(st.sampled_from("x/?#:&=%+@[] 5"), max_size=8),
    after=st.text(st.sampled_from("ab/?#:&=%+[] 5"), max_size=12),
)
@example(scheme="postgresql", before="", between="://", after="")
def test_nothing_before_an_at_is_shown(scheme: str, before: str, between: str, after: str) -> None:
    for url in (
        f"{scheme}://{before}{SECRET}{between}@{after}",
        f"{scheme}{before}{SECRET}{between}@{after}",
        f"{scheme}://h/d?x={before}{SECRET}{between}@{after}",
    ):
        for argument in ("database_url", "listen_url"):
            shown = what_is_shown({"database_url": "sqlite://", argument: url})
            # The URL of a file is a path, and so is a socket's after three slashes: it has no user.
            is_path = scheme == "sqlite" or url.startswith("unix:///")
            # An unknown kind of database is named.
            name = url.partition("://")[0]
            is_name = SECRET in name and re.fullmatch(r"[\w+.-]+", name) is not None
            assert SECRET not in shown or is_path or is_name, url


def what_is_shown(urls: dict[str, str]) -> str:
    """Return the refusal of these URLs, or the place of the database that they name."""
    try:
        manager = BidLockManager(60, **urls)  # type: ignore[arg-type]
    except ValueError as error:
        return repr(error)
    return manager._databases.at(manager._place()).place
