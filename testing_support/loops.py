"""Event loops of every kind that the bridge serves."""

import asyncio
from collections.abc import Callable

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Refuses `add_reader`, as Windows' proactor loop does, so that the bridge takes its portable way."""

    def add_reader(self, *_args: object) -> None:
        raise NotImplementedError
