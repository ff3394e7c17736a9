"""The command line around the demo."""

import subprocess
import sys

import pytest

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


def test_looking_for_commands_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        f"for name in {COMMAND_MODULES!r}: __import__(name)\n"
        "heavy = {'rich', 'openai', 'sqlite3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert completed.stderr == ""
