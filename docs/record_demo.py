"""Run the demo and draw what the terminal shows at its end.

`python docs/record_demo.py` writes docs/demo.svg. Options are those of the demo.
"""

import argparse
import io
import re
import sys
from pathlib import Path

from rich.console import Console

from arbitrageai_native.cli import demo
from arbitrageai_native.demo import command
from arbitrageai_native.demo.live_display import LiveDisplay, show_outcome
from arbitrageai_native.demo.progress import Outcome

TARGET = Path(__file__).with_name("demo.svg")
COLUMNS = 100
# rich has the picture load a font from elsewhere; a picture should need nothing but itself.
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class RecordingDisplay(LiveDisplay):
    """Shows the run live, and draws what is there in the end on a second console, which records it."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = Console(record=True, width=COLUMNS, force_terminal=True, file=io.StringIO())

    def end(self) -> None:
        super().end()
        self.recording.print(f"$ python -m arbitrageai_native demo {' '.join(sys.argv[1:])}", highlight=False)
        self.recording.print(self.draw())

    def show_outcome(self, outcome: Outcome) -> None:
        super().show_outcome(outcome)
        show_outcome(self.recording, outcome)


def main() -> int:
    display = RecordingDisplay()
    parser = argparse.ArgumentParser()
    demo.add_command(parser.add_subparsers())
    status = command.run(parser.parse_args(["demo", *sys.argv[1:]]), display)
    if status == 0:
        picture = display.recording.export_svg(title="arbitrageai-native", unique_id="demo")
        TARGET.write_text(FONT_FACE.sub("", picture), encoding="utf-8")
        print(f"written: {TARGET}")
    return status


if __name__ == "__main__":
    sys.exit(main())
