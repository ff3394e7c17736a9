"""What an audit found, as lines, JSON and SARIF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from arbitrageai_native._safe_text import printable

_BLOCKS: Final = "blocking-call-in-coroutine"
_HELD: Final = "held-across-service-call"
_RULES: Final = {
    _BLOCKS: "A call that blocks the event loop",
    _HELD: "Something that is held while a service call lets other tasks run",
}


class Finding(NamedTuple):
    """One blocking call in a coroutine; with `held`, a service call that other tasks can interleave with.

    Attributes:
        file: Where it is.
        line: The line in it, from 1.
        function: The coroutine.
        call: What blocks, with the helper functions that lead to it.
        instead: What does not block.
        column: The column of the call, from 1.
        held: What the function holds across the call, if that is the finding (`unblock`).
    """

    file: str
    line: int
    function: str
    call: str
    instead: str
    column: int = 1
    held: str = ""

    def __str__(self) -> str:
        """Return one line, which begins with the place in the form that editors and terminals parse."""
        return f"{self.place}: {self.message}"

    @property
    def place(self) -> str:
        """The file, the line and the column."""
        return printable(f"{self.file}:{self.line}:{self.column}")

    @property
    def message(self) -> str:
        """What is found there, and what to do."""
        held = f"holds {self.held} across" if self.held else "blocks in"
        return printable(f"{self.function} {held} {self.call}: {self.instead}")


class Problem(NamedTuple):
    """A file that could not be audited.

    Attributes:
        file: Its name.
        message: Why.
    """

    file: str
    message: str

    def __str__(self) -> str:
        """One line."""
        return printable(f"{self.file}: {self.message}")


class Report(NamedTuple):
    """What an audit found.

    Attributes:
        findings: Every blocking call.
        errors: What could not be read.
        files: How many files were.
        coroutines: How many coroutines are in them.
    """

    findings: list[Finding]
    errors: list[Problem]
    files: int
    coroutines: int

    def as_json(self) -> str:
        """`{"findings": [...], "errors": [...]}`."""
        members = ("file", "line", "function", "call", "instead")
        found = [
            {name: getattr(finding, name) for name in members}
            | ({"held": finding.held} if finding.held else {})
            for finding in self.findings
        ]
        return json.dumps({"findings": found, "errors": [error._asdict() for error in self.errors]}, indent=2)

    def as_sarif(self) -> str:
        """SARIF 2.1.0, which code hosts read."""
        rules = [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
        driver = {"name": "arbitrageai-native audit", "rules": rules}
        notifications = [
            {"level": "error", "message": {"text": f"{error.file}: {error.message}"}} for error in self.errors
        ]
        run = {
            "tool": {"driver": driver},
            "results": [_sarif_result(finding) for finding in self.findings],
            "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notifications}],
        }
        schema = "https://json.schemastore.org/sarif-2.1.0.json"
        return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2)


def _sarif_result(finding: Finding) -> dict[str, Any]:
    place = {
        "artifactLocation": {"uri": Path(finding.file).as_posix()},
        "region": {"startLine": finding.line},
    }
    return {
        "ruleId": _HELD if finding.held else _BLOCKS,
        "level": "warning",
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": place}],
    }
