"""What every `python -m transkd_ros.…` command does the same way: how it ends.

Bad input ends with one line on stderr and exit code 2, Ctrl-C with 130, SIGTERM with 143 and a closed terminal
(SIGHUP) with 129, none of them with a traceback. Any other exception is a defect and keeps its traceback. And the
argument types, options and the progress bar that they share.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from transkd_ros import sizes
from transkd_ros.model.choices import ENGINES, PRECISIONS

if TYPE_CHECKING:
    from rich.progress import Progress

    from transkd_ros.model.labels import LabelTable


class CommandError(Exception):
    """What the user asked for cannot be done; the text is the one line that says why and what to do."""


def run(main: Callable[[], int | None], *errors: type[Exception]) -> NoReturn:
    """Run a command's `main` and exit with its return code (None is 0).

    `errors` are the exceptions of the command's own subject that mean bad input (e.g. BagError), beside
    `CommandError` and `OSError`, which do so everywhere.
    """
    # SystemExit unwinds through `finally` and `with`, so children are stopped and temporary files removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script may have had none while it imported
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        code = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader of a pipe went away (`… | head`): nothing can be told it, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if not isinstance(error, (CommandError, OSError, *errors)):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """The error's text without line breaks; an OSError as `path: reason`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def positive_float(text: str) -> float:
    """An argparse type: a finite number above zero."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def positive_int(text: str) -> int:
    """An argparse type: a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def size(text: str) -> tuple[int, int]:
    """An argparse type: `640x480` (width x height, as cameras are described) to (height, width)."""
    try:
        return sizes.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def class_table(text: str) -> LabelTable:
    """An argparse type: a shipped class table by name, or the YAML file of one."""
    from transkd_ros.model.labels import LabelTable  # OpenCV: only where it is asked for

    try:
        return LabelTable.load(text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(one_line(error)) from error


def add_engine_options(group: argparse._ArgumentGroup, prefix: str = "") -> None:
    """--engine, --device, --precision, with a `prefix` such as "teacher-"."""
    group.add_argument(f"--{prefix}engine", choices=("auto", *ENGINES), default="auto", help="default auto")
    group.add_argument(f"--{prefix}device", default="auto", help="auto, cpu, gpu, cuda …")
    group.add_argument(f"--{prefix}precision", choices=PRECISIONS, default="auto", help="default auto")


def progress() -> Progress:
    """A bar on stderr that goes away when it ends: what, how many of how many, and the time that is left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
