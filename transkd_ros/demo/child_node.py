"""A node as a child process of a demo or a benchmark: start it, hear why it failed, end it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transkd_ros.cli import CommandError

_ERROR = re.compile(r"^\[(?:ERROR|FATAL)\] (?:\[[^\]]*\] )*(?:\[[^\]]*\]: )?(.+)$", re.MULTILINE)
_PATIENCE = 1.0  # seconds from SIGINT to SIGKILL
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class NodeProcess:
    """Runs a node under this interpreter while `with` lasts; its output goes to the file `log`.

    `node` is its module in `package`.
    """

    def __init__(
        self, parameters: Mapping[str, Any], log: Path, node: str = "segmentation", package: str = "transkd_ros.nodes"
    ) -> None:
        self._log = log
        self._name = node
        self._command = [sys.executable, "-m", f"{package}.{node}", "--ros-args"]
        for name, value in parameters.items():
            self._command += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML: strings stay strings

    def __enter__(self) -> NodeProcess:
        with self._log.open("wb") as log:
            # In a session of its own, a Ctrl-C in the terminal reaches only the parent, which then ends it.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                env=os.environ | {"RCUTILS_COLORIZED_OUTPUT": "0", "PYTHONUNBUFFERED": "1"},
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def check(self, state: str = "") -> None:
        """Raise CommandError, with what the node said last, if it has ended or will not come up.

        With autostart, a node in the lifecycle `state` unconfigured that has logged an error stays there.
        """
        if self.has_ended:
            raise CommandError(f"the {self._name} node ended: {self.last_words()}")
        if state == "unconfigured" and (errors := _ERROR.findall(self._output())):
            raise CommandError(f"the {self._name} node did not start: {errors[-1].strip()}")

    def last_words(self) -> str:
        """The last error it logged, or else the last line of its output."""
        errors = _ERROR.findall(self._output())
        lines = [line for line in self._output().splitlines() if line.strip()]
        return (errors or lines or ["no output"])[-1].strip().removeprefix("error: ")

    def _output(self) -> str:
        return self._log.read_text("utf-8", "replace")


def _end_with_parent() -> None:
    """Called in the child: even a parent that is killed, and so cannot end the node, leaves none behind (Linux)."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
