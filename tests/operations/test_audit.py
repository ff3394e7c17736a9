"""`python -m arbitrageai_native audit` finds what blocks a coroutine, and nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from arbitrageai_native.audit import Finding, audit
from arbitrageai_native.cli.main import main
from testing_support.terminal import on_a_terminal

HIDDEN = """
import asyncio
import time


def hidden():
    time.sleep(0.3)


def helper():
    hidden()


async def handler():
    helper()
"""
CLEAN = """
import asyncio
import time


def helper():
    time.sleep(0.3)


def pieces():
    yield time.sleep(0.3)


async def handler(helper_of_ours):
    await asyncio.to_thread(helper)
    await asyncio.get_running_loop().run_in_executor(None, lambda: helper())
    pieces()
    helper_of_ours()
"""


def found_in(folder: Path, **files: str) -> list[Finding]:
    """Writes files, `a__b` for a/b.py and `a__INIT` for a/__init__.py, and audits them."""
    for name, text in files.items():
        parts = ["__init__" if part == "INIT" else part for part in name.split("__")]
        path = folder.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    return audit([folder]).findings


def test_a_sleep_three_calls_deep_is_found(tmp_path: Path) -> None:
    (found,) = found_in(tmp_path, app=HIDDEN)
    assert (found.file, found.line, found.function) == (str(tmp_path / "app.py"), 15, "handler")
    assert found.call == f"helper -> hidden -> time.sleep ({tmp_path / 'app.py'}:7)"
    assert "await asyncio.sleep" in found.instead


def test_clean_code_is_passed_in_silence(tmp_path: Path) -> None:
    assert found_in(tmp_path, app=CLEAN) == []


def test_helpers_are_followed_through_modules_packages_and_classes(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        shop__files="""
            import subprocess
            def convert(): subprocess.run(["true"])
        """,
        shop__again="from .files import convert as change",
        shop__base="""
            from shop import files
            class Base:
                def prepare(self): files.convert()
            class Job(Base):
                def __init__(self): self.prepare()
                async def work(self): self.prepare()
        """,
        shop__app="""
            from shop.again import change
            from shop.base import Job
            async def renamed(): change()
            async def making(): Job()
            async def nested():
                def inner(): change()
                inner()
        """,
    )
    assert [found.function for found in found] == ["renamed", "making", "nested", "Job.work"]
    assert all("subprocess.run" in found.call for found in found)


def test_helpers_that_call_each_other_end(tmp_path: Path) -> None:
    recursive = """
        import time
        def a(): b()
        def b(): a(); time.sleep(1)
        async def handler(): a()
    """
    assert [found.function for found in found_in(tmp_path, app=recursive)] == ["handler"]


BLOCKING = {
    "client.chat.completions.create()": "from openai import OpenAI\nclient = OpenAI()",
    "openai_.responses.create()": "import openai\nopenai_ = openai.OpenAI()",
    "session.execute(q)": "from sqlalchemy.orm import Session\nsession = Session(engine)",
    "db.commit()": "from sqlalchemy.orm import sessionmaker\nMaker = sessionmaker(engine)\ndb = Maker()",
    "service.complete('x')": "from arbitrageai_native import LLMService\nservice = LLMService()",
    "local.complete_streaming('x')": (
        "from arbitrageai_native import LLMService\nlocal = LLMService.with_local()"
    ),
    "locks.with_lock_sync('a', 'b')": (
        "from arbitrageai_native import BidLockManager\nlocks = BidLockManager()"
    ),
}
NOT_BLOCKING = {
    "await client.chat.completions.create()": "from openai import AsyncOpenAI\nclient = AsyncOpenAI()",
    "await session.execute(q)": "from sqlalchemy.ext.asyncio import AsyncSession as S\nsession = S(engine)",
    "await db.commit()": "from sqlalchemy.orm import sessionmaker\nM = sessionmaker(class_=A)\ndb = M()",
    "await service.complete_async('x')": "from arbitrageai_native import LLMService\nservice = LLMService()",
    "client.complete('x')": "from somewhere import client",
    "session.add(row)": "from sqlalchemy.orm import Session\nsession = Session(engine)",
}


@pytest.mark.parametrize("call", BLOCKING)
def test_what_ruff_does_not_know_is_found(tmp_path: Path, call: str) -> None:
    setup = BLOCKING[call]
    (found,) = found_in(tmp_path, app=f"{setup}\nasync def handler():\n    {call}\n")
    assert found.call == call.partition("(")[0]
    at_self = f"{setup}\nclass A:\n    def __init__(self):\n        self.it = {call.partition('.')[0]}\n"
    (found,) = found_in(
        tmp_path, app=f"{at_self}    async def handler(self):\n        self.it.{call.partition('.')[2]}"
    )
    assert found.function == "A.handler"


@pytest.mark.parametrize("call", NOT_BLOCKING)
def test_their_asynchronous_siblings_are_not(tmp_path: Path, call: str) -> None:
    assert found_in(tmp_path, app=f"{NOT_BLOCKING[call]}\nasync def handler():\n    {call}\n") == []


@pytest.mark.parametrize("annotation", ["Session", "Session | None", "Annotated[Session, Depends(get)]"])
def test_annotated_parameters_are_known(tmp_path: Path, annotation: str) -> None:
    imports = "from sqlalchemy.orm import Session\nfrom typing import Annotated\n"
    text = f"{imports}async def handler(db: {annotation}):\n    db.query(1).all()\n"
    assert [found.call for found in found_in(tmp_path, app=text)] == ["db.query"]


def test_noqa_silences_a_line(tmp_path: Path) -> None:
    assert found_in(tmp_path, app=HIDDEN.replace("    helper()\n", "    helper()  # noqa\n")) == []


def test_what_cannot_be_read_is_named_and_the_rest_is_audited(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "binary.py").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "encoding.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "deep.py").write_text("(" * 5_000 + ")" * 5_000)
    with (tmp_path / "large.py").open("wb") as large:
        large.truncate(50_000_000)
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "around").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "twice.py").symlink_to(tmp_path / "app.py")
    (found,) = found_in(tmp_path, app=HIDDEN)
    assert found.function == "handler"
    problems = {Path(problem.file).name: problem.message for problem in audit([tmp_path]).errors}
    assert problems["broken.py"].startswith("syntax error in line 1")
    assert problems["binary.py"] == "binary"
    assert problems["large.py"] == "larger than 5 MB"
    assert set(problems) == {"broken.py", "binary.py", "encoding.py", "deep.py", "large.py", "loop.py"}


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found_in(tmp_path, app=HIDDEN)
    assert main(["audit", str(tmp_path)]) == 0
    assert "1 of 1 coroutines in 1 files block" in capsys.readouterr().out
    assert main(["audit", "--fail-on-findings", str(tmp_path)]) == 1
    assert "time.sleep" in capsys.readouterr().out
    assert main(["audit", "--json", "--fail-on-findings", str(tmp_path)]) == 1
    output = json.loads(capsys.readouterr().out)
    assert list(output) == ["findings", "errors"]
    assert list(output["findings"][0]) == ["file", "line", "function", "call", "instead"]
    assert main(["audit", "--sarif", str(tmp_path)]) == 0
    (result,) = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 15}
    (tmp_path / "app.py").write_text(CLEAN)
    assert main(["audit", "--fail-on-findings", str(tmp_path)]) == 0


def test_a_finding_is_a_whole_line_that_leads_to_its_place(tmp_path: Path) -> None:
    long_name = "a_module_with_a_rather_long_name_in_a_folder_with_another_long_name"
    text = "import time\nasync def handler():\n    x = 'größe 日本'; time.sleep(1)\n    helper()\n"
    found_in(tmp_path, **{f"{long_name}__{long_name}": f"{text}def helper(): time.sleep(1)\n"})
    path = tmp_path / long_name / f"{long_name}.py"
    expected = [
        f"{path}:3:21: handler blocks in time.sleep: await asyncio.sleep(…)",
        f"{path}:4:5: handler blocks in helper -> time.sleep ({path}:5): "
        "asyncio.to_thread for the helper, or in it: await asyncio.sleep(…)",
        "1 of 1 coroutines in 1 files block",
    ]
    command = [sys.executable, "-m", "arbitrageai_native", "audit", str(tmp_path)]
    piped = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=110, check=True).stdout
    assert piped.splitlines() == expected
    for columns in (60, 80, 120):  # the terminal wraps the lines
        status, on_terminal = on_a_terminal(command, columns=columns)
        assert status == 0
        assert f"\x1b[36m{path}:3:21\x1b[0m: handler" in on_terminal
        assert re.sub(r"\x1b\[[0-9;]*m", "", on_terminal) == piped


def test_names_of_files_reach_no_terminal_as_they_are(tmp_path: Path) -> None:
    for name in ("a\x1b[2J\n\u202e.py", "b\udcff.py"):
        (tmp_path / name).write_text(HIDDEN)
    (tmp_path / "c\x1b.py").write_text("def f(:\n")
    command = [sys.executable, "-m", "arbitrageai_native", "audit"]
    ended = subprocess.run(
        [*command, tmp_path], capture_output=True, encoding="utf-8", timeout=110, check=False
    )
    assert ended.returncode == 0, ended.stderr
    first, second, _ = ended.stdout.splitlines()
    assert r"/a\x1b[2J\n\u202e.py:15:5: handler" in first
    assert r"/b\udcff.py:15:5: handler" in second
    assert r"/c\x1b.py: syntax error" in ended.stderr
    ended = subprocess.run([*command, "no\x1b[2J"], capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 2
    assert r"no\x1b[2J does not exist" in ended.stderr


def test_a_path_that_does_not_exist_and_a_missing_ruff(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["audit", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["audit", str(tmp_path)]) == 2
    assert "arbitrageai-native[audit]" in capsys.readouterr().err


def test_the_hook_runs_the_command() -> None:
    hook = (Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text()
    assert "id: no-blocking-in-async" in hook
    assert "entry: arbitrageai-native audit --fail-on-findings" in hook
    assert (Path(sys.executable).parent / "arbitrageai-native").exists()
