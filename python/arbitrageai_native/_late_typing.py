"""`typing`, imported when the first of its names is looked up: it takes longer to import than this package.

Only annotations name it here, and hardly any program evaluates those.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import Literal as Literal
else:

    def __getattr__(name: str) -> object:
        import typing

        return getattr(typing, name)
