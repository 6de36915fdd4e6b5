"""Commands end with a code that says why, and without a traceback unless it is a defect."""

from __future__ import annotations

import argparse
import signal

import pytest

from transkd_ros import cli


@pytest.fixture(autouse=True)
def keep_the_signal_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


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


def test_sigterm_unwinds_like_an_exit():
    unwound = []

    def main() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            unwound.append(True)

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 143 and unwound


def test_a_size_is_width_by_height_and_becomes_height_width():
    assert cli.size("640x480") == (480, 640)
    for text in ("640", "0x480", "-1x5", "ax5", "640x"):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.size(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf"])
def test_a_rate_must_be_finite_and_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.positive_float(text)
