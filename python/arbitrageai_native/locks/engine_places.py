"""Queries a connection of an engine for its database, and returns that database as a URL for the locks."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from arbitrageai_native import environment

__all__ = ["url_of", "url_of_async"]

_TABLE = "distributed_locks"

_POSTGRESQL = f"""
SELECT current_database()::text, session_user::text, current_user::text, current_schema()::text,
    (SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = to_regclass('{_TABLE}')),
    (SELECT source::text FROM pg_settings WHERE name = 'search_path'),
    (SELECT string_agg(nspname::text, ', ' ORDER BY nspname::text)
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relname = '{_TABLE}' AND relkind IN ('r', 'p') AND left(nspname::text, 3) <> 'pg_')
"""

# The sources of a search_path that is the same for every connection of one user to one database.
_OF_THE_SERVER = (
    "default",
    "environment variable",
    "configuration file",
    "command line",
    "global",
    "database",
    "user",
    "database user",
)
_LOCAL = ("", "localhost", "127.0.0.1", "::1")


def url_of(connection: Any, url: Any, schema: str | None) -> str | None:
    """Return the URL of the database of a connection; None for a database in memory.

    Args:
        connection: the SQLAlchemy connection.
        url: the URL of its engine.
        schema: the schema that the application's statements name for the table; None if they name none.

    Raises:
        ValueError: the database can't hold the locks, or it is another one than the URL names.
    """
    if url.get_backend_name() == "sqlite":
        return _file_of(connection, schema)
    return _server_of(connection, url, schema)


def url_of_async(engine: Any, schema: str | None) -> str | None:
    """As `url_of`, for an asynchronous engine, with a separate pool and a separate event loop."""
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    async def ask() -> str | None:
        own = AsyncEngine(Engine(engine.pool.recreate(), engine.dialect, engine.url))
        try:
            async with own.connect() as connection:
                return await connection.run_sync(url_of, engine.url, schema)
        finally:
            await own.dispose()

    return asyncio.run(ask())


def _file_of(connection: Any, schema: str | None) -> str | None:
    rows = connection.exec_driver_sql("PRAGMA database_list").fetchall()
    files = {name: file for _, name, file in rows}
    if schema is not None and schema not in files:
        raise ValueError(f"has its table in the schema {schema!r}, but no attached database has that name")
    found = schema if schema is not None else _database_with_the_table(connection, list(files))
    file: str = files[found] or ""
    # Both characters have a meaning in a URL.
    escaped = file.replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{escaped}" if file else None


def _database_with_the_table(connection: Any, names: list[str]) -> str:
    """Return the attached database that a statement without a schema uses: the first one with the table."""
    for name in names if len(names) > 1 else []:
        master = f'"{name}".sqlite_master'.replace('"temp".sqlite_master', "sqlite_temp_master")
        query = f"SELECT 1 FROM {master} WHERE type = 'table' AND name = '{_TABLE}'"
        if connection.exec_driver_sql(query).first() is not None:
            return name
    return "main"


def _server_of(connection: Any, url: Any, schema: str | None) -> str:
    row = connection.exec_driver_sql(_POSTGRESQL).one()
    database, login, role, current, found, source, all_schemas = row
    database = _refuse_another_server(connection, url, database)
    meant = schema or found or current
    if meant is None:
        raise ValueError(f"has a search_path without an existing schema, so there is no place for {_TABLE}")
    if schema is None and found is None and all_schemas is not None:
        raise ValueError(
            f"has no table {_TABLE} in its schema {current}, but the table exists in: {all_schemas}. "
            f"Add that schema to the search_path of the engine, or create the table in {current}"
        )
    query = dict(url.query)
    another_login = url.username is not None and login != str(url.username)
    if schema is not None or source not in _OF_THE_SERVER or role != login or another_login:
        options = query.get("options", ())
        options = [options] if isinstance(options, str) else list(options)
        query["options"] = " ".join([*options, f"-c search_path={_escaped(meant)}"])
    return _rendered(url, query, database)


def _refuse_another_server(connection: Any, url: Any, database: str) -> str:
    """Check that the connection leads to the server and database of the URL; return the database's name.

    Raises:
        ValueError: the connection leads to another server or database.
    """
    info = getattr(connection.connection.dbapi_connection, "info", None)
    actual_host, actual_port = getattr(info, "host", None), getattr(info, "port", None)
    # A pooler may have another name for the database than the server has.
    asked_for = getattr(info, "dbname", None)
    database = asked_for if isinstance(asked_for, str) else database
    named = url.query.get("dbname") or url.database
    host, port = _host_and_port(url)
    same = named in (None, "", database)
    if not isinstance(actual_host, str):
        # This driver does not report the server. If the URL names none, a creator or connect_args
        # do.
        same = same and bool(host or named)
    elif host:
        same = same and actual_host in (host, "")
    else:
        same = same and (actual_host.startswith("/") or actual_host in _LOCAL)
    if isinstance(actual_port, int) and port:
        same = same and actual_port == port
    if not same:
        server = f"{actual_host or 'a server'}:{actual_port or '?'}"
        raise ValueError(
            f"connects to the database {database!r} at {server}, but its URL names another one (a creator, "
            "connect_args or a listener may set it): give the lock manager the right database_url"
        )
    return database


def _host_and_port(url: Any) -> tuple[str | None, int | None]:
    host = url.query.get("host") or url.query.get("hostaddr") or url.host or environment.postgres_host()
    if isinstance(host, tuple):
        return None, None  # several hosts: `Database::parse` refuses the URL later
    port = url.query.get("port") or url.port or environment.postgres_port() or 5432
    alone = re.fullmatch(r"([A-Za-z0-9.-]*):(\d+)", host or "")
    if alone:
        host, port = alone.groups()
    try:
        return host, int(port)
    except (TypeError, ValueError):
        return host, None


def _escaped(schema: str) -> str:
    """Escape the name of a schema for the parameter `options`."""
    name = schema if re.fullmatch(r"[a-z_][a-z0-9_]*", schema) else '"' + schema.replace('"', '""') + '"'
    return re.sub(r"([\s\\])", r"\\\1", name)


def _rendered(url: Any, query: dict[str, Any], database: str) -> str:
    """Render the URL with every part escaped, so that it is parsed into the same parts."""
    from urllib.parse import quote, urlencode  # in the thread of the query, so that no program waits for it

    user = "" if url.username is None else quote(str(url.username), safe="")
    if url.password is not None:
        user += ":" + quote(str(url.password), safe="")
    host = url.host or ""
    host = f"[{host}]" if ":" in host else quote(host, safe="")
    port = "" if url.port is None else f":{url.port}"
    place = f"{user}@{host}{port}" if user else f"{host}{port}"
    name = quote(url.database or ("" if "dbname" in query else database), safe="")
    parameters = f"?{urlencode(query, doseq=True)}" if query else ""
    return f"postgresql://{place}/{name}{parameters}"
