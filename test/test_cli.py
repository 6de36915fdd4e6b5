"""Commands end with a code that says why, and without a traceback unless it is a defect."""

from __future__ import annotations

import argparse
import signal

import pytest

from transkd_ros import cli


@pytest.fixture(autouse=True)
def keep_the_signal_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end_of(error: BaseException | None, *errors: type[Exception]) -> int:
    def main() -> None:
        if error:
            raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main, *errors)
    return end.value.code


def test_success_is_0_and_ctrl_c_is_130():
    assert end_of(None) == 0
    assert end_of(KeyboardInterrupt()) == 130


def test_bad_input_is_2_and_one_line(capsys):
    assert end_of(cli.CommandError("first\n second")) == 2
    assert end_of(KeyError("bag"), KeyError) == 2
    assert end_of(FileNotFoundError(2, "No such file or directory", "x.bag")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["error: first second", "error: 'bag'", "error: x.bag: No such file or directory"]


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_sigterm_and_a_closed_terminal_unwind_like_an_exit(number, code):
    signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    unwound = []

    def main() -> None:
        try:
            signal.raise_signal(number)
        finally:
            unwound.append(True)

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == code and unwound


def test_a_command_under_nohup_outlives_its_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: signal.raise_signal(signal.SIGHUP))
    assert end.value.code == 0


def test_a_size_is_width_by_height_and_becomes_height_width():
    assert cli.size("640x480") == (480, 640)
    with pytest.raises(argparse.ArgumentTypeError):
        cli.size("640")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf"])
def test_a_rate_must_be_finite_and_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.positive_float(text)
