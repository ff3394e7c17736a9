"""What a run needs and does not have."""

from __future__ import annotations


class Unmet(Exception):  # noqa: N818 - not an error of the program: a condition for the user to meet
    """A run can't start. Its text is one line that says what to do; the exit status is 2."""
