"""Where locks are kept: reachable, with tables of the right shape, and with a clock like ours."""

from __future__ import annotations

from typing import Any, Final

from arbitrageai_native import _native, environment
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from arbitrageai_native.locks import application

from .finding import Finding, Level

_SECONDS_TO_ASK: Final = 3.0
_SECONDS_TO_NOTICE: Final = 1.0
# From this part of the locks' time on, a clock that is wrong by so much takes locks from under their holders.
_DANGEROUS_PART: Final = 0.5
_MODULE: Final = "src.api.database"
# The variables by which a process finds its locks.
_CHOOSING: Final = ("DATABASE_URL", "USE_REDIS_LOCKS", "REDIS_URL", "REDIS_HOST", "REDIS_PORT", "ENV")


async def database(url: str | None, ttl: float) -> list[Finding]:
    """The database of the locks."""
    given = url or environment.database_url()
    try:
        # The lock manager finds the database here, since the application may override DATABASE_URL.
        place = await BidLockManager(database_url=url or None)._place().answer(_SECONDS_TO_ASK)
        given = "sqlite://" if place.memory_engine is not None else place.url
        looking = _native.inspect_database(given)
    except (ValueError, LockBackendError) as error:
        remedy = "Set DATABASE_URL in SQLAlchemy's form, as docs/locks.md has it."
        if isinstance(error, LockBackendError):
            remedy = "Make sure that src.api.database can be imported, and that its engine can connect."
        return [Finding("database", Level.ERROR, str(error), remedy)]
    try:
        found = await looking
    except LockBackendError as error:
        remedy = "See that the server runs, and that host, port, user and password in DATABASE_URL are right."
        if given is None or given.startswith("sqlite"):
            remedy = "See that DATABASE_URL names a SQLite file that this user may read and write."
        return [Finding("database", Level.ERROR, str(error), remedy)]
    checks = [*_reachable("database", found), *_tables(found), *_clock("clock", found, ttl)]
    return [*checks, _choice(url)]


def _choice(url: str | None) -> Finding:
    """Why the locks are in this database, and whether an old process would look for them elsewhere."""
    check = "database choice"
    if url:
        return Finding(check, Level.OK, "named by --database-url")
    if application.application_database() is None:
        if environment.database_url() is not None:
            return Finding(check, Level.OK, f"named by DATABASE_URL; there is no module {_MODULE} here")
        said = f"the default under the working directory: no DATABASE_URL, and no module {_MODULE} here"
        remedy = "Set DATABASE_URL, or put the application's folder into PYTHONPATH: old processes import it."
        return Finding(check, Level.WARNING, said, remedy)
    said = f"the application's own: {_MODULE} defines it"
    named_here = [name for name in _CHOOSING if environment.comes_from_dotenv_file(name)]
    if not named_here:
        return Finding(check, Level.OK, said)
    said += f"; {', '.join(named_here)} is set by the .env file, which old processes do not read for locks"
    remedy = "Set it in the environment as long as old processes run: they might use another database."
    return Finding(check, Level.WARNING, said, remedy)


async def redis(ttl: float) -> list[Finding]:
    """Redis, if it is to keep the locks."""
    if not environment.wants_redis():
        return [Finding("Redis", Level.OK, "not configured: the locks are in the database above")]
    configured = environment.names_redis() or environment.is_set("USE_REDIS_LOCKS")
    try:
        found = await _native.inspect_database(environment.redis_url())
    except (LockBackendError, ValueError) as error:
        said = str(error).replace("database_url", "REDIS_URL")
        remedy = "See that the server runs and that REDIS_URL is right, or set USE_REDIS_LOCKS=false."
        level = Level.ERROR if configured else Level.WARNING
        return [Finding("Redis", level, f"{said}; locks would be in the database", remedy)]
    return [*_reachable("Redis", found), *_clock("Redis's clock", found, ttl)]


def _reachable(check: str, found: dict[str, Any]) -> list[Finding]:
    detail = f"{found['place']} answers" if found["clock_ahead"] is not None else found["place"]
    if found["server"]:
        detail += f": {found['server']}"
    if found["encrypted"] is not None:
        detail += ", encrypted" if found["encrypted"] else ", not encrypted"
    findings = [
        Finding(check, level, f"{found['place']}: {said}", _remedy(said))
        for level, kind in ((Level.ERROR, "obstacles"), (Level.WARNING, "cautions"))
        for said in found[kind]
    ]
    return findings or [Finding(check, Level.OK, detail)]


# Words of an obstacle or a caution, and what to do about it.
_REMEDIES: Final = (
    ("hard link", "Let DATABASE_URL name the file in the same way for every process."),
    ("mounted alone", "Mount the folder of the file."),
    ("not a file", "Let DATABASE_URL name a file."),
    ("standby", "Point DATABASE_URL at the primary server."),
    ("replica", "Point REDIS_URL at the primary server."),
    (
        "default_transaction_read_only",
        "Switch default_transaction_read_only off for the role or the database.",
    ),
    (
        "may not read and write",
        "Let the table's owner GRANT SELECT, INSERT, UPDATE, DELETE on it to the role.",
    ),
    ("may not make", "Let the database's owner run that SQL, or GRANT CREATE on the schema to the role."),
    ("does not exist", "Make the folder."),
    ("directory", "Let DATABASE_URL name a file."),
    ("may not write", "Give this user the right to write there."),
    ("maxmemory-policy", "Set maxmemory-policy to noeviction, or give the locks a server of their own."),
    ("memory", "Set DATABASE_URL to a file or a server if several processes are to exclude each other."),
)


def _remedy(said: str) -> str:
    return next(remedy for words, remedy in _REMEDIES if words in said)


def _tables(found: dict[str, Any]) -> list[Finding]:
    if found["difference"] is not None:
        remedy = "Rename that table: the next lock makes one; or give the locks a database of their own."
        return [Finding("lock tables", Level.ERROR, found["difference"], remedy)]
    missing = found["missing_tables"]
    if missing is None:  # Redis has none
        return []
    detail = f"not there yet, made with the first lock: {', '.join(missing)}" if missing else "all there"
    return [Finding("lock tables", Level.OK, detail)]


def _clock(check: str, found: dict[str, Any], ttl: float) -> list[Finding]:
    ahead = found["clock_ahead"]
    if ahead is None:
        return [Finding(check, Level.OK, "this machine's own decides when locks expire")]
    off = abs(ahead)
    detail = f"the server's is {off:.3f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if off < _SECONDS_TO_NOTICE:
        return [Finding(check, Level.OK, detail)]
    remedy = "Let NTP set the clocks of both machines."
    if off < ttl * _DANGEROUS_PART:
        return [Finding(check, Level.WARNING, detail, remedy)]
    detail += f": near the locks' time of {ttl:g} s, within which old processes would not exclude new ones"
    return [Finding(check, Level.ERROR, detail, remedy)]
