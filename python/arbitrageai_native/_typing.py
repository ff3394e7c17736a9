"""Names of `typing` that Python 3.10 does not have yet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = ["NotRequired", "Self", "Unpack"]

if TYPE_CHECKING:
    from typing_extensions import NotRequired, Self, Unpack
elif sys.version_info >= (3, 11):
    from typing import NotRequired, Self, Unpack
else:
    from typing import Any as Self
    from typing import Optional

    # Only `get_type_hints` evaluates these at run time, and any generic of one argument serves it.
    NotRequired = Unpack = Optional
