"""The command line around the demo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from arbitrageai_native import defaults
from arbitrageai_native.cli.main import COMMAND_MODULES, main


@pytest.mark.parametrize(
    ("arguments", "complaint"), [([], "COMMAND"), (["dance"], "invalid choice: 'dance'")]
)
def test_a_wrong_command_is_told_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert complaint in printed.err
    assert len(printed.err.splitlines()) == 1


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "default", "value", "shown"),
    [
        ("demo", "CLOUD_MODEL", "another-model", "(default: another-model)"),
        ("demo", "DEMO_SCANNERS", 17, "(default: 17)"),
        ("demo", "DEMO_STEALTH_RANGE", (0.25, 0.75), "(default: 0.25 0.75)"),
        ("demo", "DEMO_LOCK_TTL", 44.0, "(default: 44)"),
        ("locks", "LOCK_DATABASE_URL", "sqlite:///another.db", "then sqlite:///another.db)"),
        ("locks watch", "WATCH_SECONDS", 2.5, "(default: 2.5)"),
        ("doctor", "LOCK_DATABASE_URL", "sqlite:///another.db", "then sqlite:///another.db)"),
        ("doctor", "LOCK_TTL", 44, "(default: 44)"),
    ],
)
def test_help_shows_the_defaults(
    command: str,
    default: str,
    value: object,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(defaults, default, value)
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert shown in " ".join(capsys.readouterr().out.split())


def test_a_locale_without_a_letter_gets_its_escape(tmp_path: Path) -> None:
    program = (
        "import sys; from arbitrageai_native.cli.main import main\n"
        "from arbitrageai_native import BidLockManager\n"
        f"manager = BidLockManager(database_url='sqlite:///{tmp_path}/locks.db')\n"
        "with manager.with_lock_sync('m', 'caf\u00e9'):\n"
        f"    sys.exit(main(['locks', '--database-url', 'sqlite:///{tmp_path}/locks.db']))\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "caf\\xe9" in completed.stdout


def test_looking_for_commands_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        f"for name in {COMMAND_MODULES!r}: __import__(name)\n"
        "heavy = {'rich', 'openai', 'sqlite3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert completed.stderr == ""
