"""Installs the drop-in modules as a Python starts: `python -m arbitrageai_native run` puts it on the path.

The Python may be any that COMMAND starts, also one that does not have this package.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_here = Path(__file__).parent

try:
    from arbitrageai_native import drop_in
except ImportError as error:
    print(f"arbitrageai_native run: not installed in {sys.executable}: {error}", file=sys.stderr)
else:
    try:
        drop_in.install(unblock=str(_here / "unblock") in sys.path)
    except ImportError as error:
        print(f"arbitrageai_native run: {error} ({sys.executable})", file=sys.stderr)
        drop_in.install()

# The one that this file hides.
_hidden = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if Path(entry) != _here])
if _hidden is not None and _hidden.loader is not None:
    _module = module_from_spec(_hidden)
    sys.modules["sitecustomize"] = _module
    _hidden.loader.exec_module(_module)
