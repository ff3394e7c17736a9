"""PostgreSQL's own load generator: pairs from a C program, with prepared statements.

`pgbench` sends the plain upsert and deletion of the other peers, `pgbench-ours` the statements of this
package, a row in each: what the package's client adds to them is the difference.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from benchmarks.axes.own_process import measured_in
from benchmarks.installed import OURS
from benchmarks.lock_peers import GIVE, KEYS, PGBENCH_OURS, TABLE, TAKE, TTL

_STORE = Path(__file__).parent.parent / "src" / "lock" / "store" / "postgres"
# A string of Rust's, or a macro with its arguments.
_PART = re.compile(r'"((?:[^"\\]|\\.)*)"|(\w+)!\(((?:[^()"]|"[^"]*"|\([^()]*\))*)\)|(\$\w+)', re.DOTALL)
_KEY = "'key-' || :client_id || '-' || :number"
_ID = "(:id)::text"


def pairs_per_second(name: str, url: str, clients: int, seconds: float) -> float:
    """What one of the two reaches on an empty database."""
    script = _our_script(url) if name == PGBENCH_OURS else _plain_script(url)
    variables = f"\\set id random(1, 1000000000000)\n\\set number random(1, {KEYS})\n"
    with tempfile.TemporaryDirectory(prefix="pgbench-") as folder:
        file = Path(folder) / "pairs.sql"
        file.write_text(variables + script)
        load = ["-c", str(clients), "-j", str(min(clients, 2)), "-T", str(max(round(seconds), 1))]
        output = _output("pgbench", "-n", "-M", "prepared", *load, "-f", str(file), url)
    found = re.search(r"tps = ([\d.]+)", output)
    assert found is not None
    return float(found[1])


def _plain_script(url: str) -> str:
    _output("psql", "-q", "-c", TABLE, url)
    take = TAKE.format(_ID, _KEY, "'x'", ":now", f":now + {TTL:.0f}")
    return f"\\set now 1800000000\n{take};\n{GIVE.format(_KEY, _ID)};\n"


def _our_script(url: str) -> str:
    # One pair of the package's makes its tables.
    measured_in(
        "measured_locks",
        OURS,
        **{"peer": OURS, "store": "postgresql", "loop": "asyncio", "url": url},
        **{"kind": "held", "count": 0, "pairs": 1},
    )
    acquire = _with_rows("acquire.rs", "MANY", _KEY, _ID, "'x'", f"{TTL}", ":bucket")
    release = _with_rows("release.rs", "ROWS", _ID, ":bucket").replace("$3::", "true::")
    return f"\\set bucket random(0, 4095)\n{acquire};\n{release};\n"


def _with_rows(file: str, name: str, *values: str) -> str:
    """A statement of the package's, its arrays filled with one row."""
    source = (_STORE / "rule.rs").read_text() + (_STORE / file).read_text()
    found = re.search(rf"const {name}: &str = (.*?\n\)|\".*?\");\n", source, re.DOTALL)
    assert found is not None, f"there is no statement {name}"
    statement = _text(found[1], _macros(source))
    for number, value in enumerate(values, 1):
        statement = statement.replace(f"${number}::", f"ARRAY[{value}]::")
    return statement


def _macros(source: str) -> dict[tuple[str, int], tuple[list[str], str]]:
    """The macros of a source that make strings: by name and number of parameters, these and the body."""
    macros = {}
    for name, arms in re.findall(r"macro_rules! (\w+) \{\n(.*?)\n\}", source, re.DOTALL):
        for head, body in re.findall(
            r"^    \(([^)]*)\) => \{\n(.*?)\n    \};", arms, re.DOTALL | re.MULTILINE
        ):
            parameters = re.findall(r"\$\w+", head)
            macros[name, len(parameters)] = (parameters, body)
    return macros


def _text(expression: str, macros: dict[tuple[str, int], tuple[list[str], str]], **given: str) -> str:
    """The string that a Rust expression of strings and macros makes."""
    parts = []
    for string, name, arguments, parameter in _PART.findall(expression):
        if parameter:
            parts.append(given[parameter[1:]])
        elif name == "concat":
            parts.append(_text(arguments, macros, **given))
        elif name:
            values = [_text(one, macros, **given) for one in re.findall(r'"[^"]*"|\$\w+', arguments)]
            parameters, body = macros[name, len(values)]
            named = {parameter[1:]: value for parameter, value in zip(parameters, values, strict=True)}
            parts.append(_text(body, macros, **named))
        else:
            parts.append(re.sub(r"\\\n\s*", "", string))
    return "".join(parts)


def _output(program: str, *arguments: str) -> str:
    from testing_support.servers.postgres import PostgresServer

    command = [PostgresServer.program(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
