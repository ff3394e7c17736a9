"""The native allocator requests no huge pages, and does not disable them for the rest of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The program allocates forty megabytes of native memory, in the process and in a forked child.
PROGRAM = """
import ctypes, os, re
from arbitrageai_native import LLMService

def look():
    service = LLMService(base_url="http://127.0.0.1:1/v1", api_key="k", enable_circuit_breaker=False)
    kept = [service.complete_streaming("x" * 1_000_000) for _ in range(40)]
    regions = re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())
    asking = [region.split("\\n")[0] for region in regions if re.search(r"VmFlags:.* hg\\b", region)]
    forbidden = ctypes.CDLL(None).prctl(42, 0, 0, 0, 0)  # PR_GET_THP_DISABLE
    print(len(kept), asking, forbidden, flush=True)

look()
child = os.fork()
if child == 0:
    look()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are Linux's")
def test_no_huge_pages_are_asked_for_and_none_forbidden_to_others() -> None:
    if "VmFlags" not in Path("/proc/self/smaps").read_text(encoding="utf-8"):
        pytest.skip("this kernel does not report which regions request huge pages")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIMALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout == "40 [] 0\n" * 2
