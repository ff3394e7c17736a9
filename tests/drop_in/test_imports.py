"""Importing the drop-in modules is cheap: what is heavy is imported at its first use."""

import subprocess
from pathlib import Path

from tests.drop_in.support import python

# The processor's time: that of the clock depends on what else the machine does.
MEASURE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def seconds_to_import(name: str, folder: Path) -> float:
    """In a Python of its own."""
    return float(subprocess.check_output(python("-c", MEASURE.format(name)), cwd=folder))


def test_llm_service_takes_a_fifth_of_the_time_of_openai(tmp_path: Path) -> None:
    ours = seconds_to_import("arbitrageai_native.llm_service", tmp_path)
    assert ours <= seconds_to_import("openai", tmp_path) / 5


def test_neither_sqlalchemy_nor_openai_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, arbitrageai_native.llm_service, arbitrageai_native.agent_execution.bid_lock_manager\n"
        "print([name for name in ('openai', 'sqlalchemy', 'httpx', 'rich', 'redis') if name in sys.modules])"
    )
    assert subprocess.check_output(python("-c", code), cwd=tmp_path, text=True).strip() == "[]"


def test_the_redis_modules_are_light_and_are_imported_only_when_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys, arbitrageai_native.agent_execution.bid_lock_manager\n"
        "before = [name for name in sys.modules if 'redis' in name]\n"
        "import arbitrageai_native.agent_execution.bid_lock_manager_factory\n"
        "print(before, [name for name in sys.modules if name.startswith('redis')])"
    )
    assert subprocess.check_output(python("-c", code), cwd=tmp_path, text=True).strip() == "[] []"
