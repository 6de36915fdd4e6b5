"""The user's cache folder of this machine: what was measured and compiled here. Losing it costs time, nothing else.

`$XDG_CACHE_HOME/transkd_ros/MACHINE/`, by default below `~/.cache`. MACHINE stands for the processor, so that a folder
that is copied to another robot, or shared over a network, is not mistaken for its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from transkd_ros.reports.machine import machine

_X86 = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")
_PROCESSOR = {*_X86, *_ARM}  # keys of /proc/cpuinfo that tell processors apart


class CacheUnavailable(OSError):  # noqa: N818
    """Nothing can be kept on this machine; the text is one line that says where and why."""


def machine_folder(name: str) -> Path:
    """The folder `name` of this machine's cache, made if need be. Raises CacheUnavailable."""
    folder = _root() / "transkd_ros" / machine_id() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheUnavailable(f"cache folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CacheUnavailable(f"cache folder {folder} cannot be written")
    return folder


def machine_id() -> str:
    """Twelve hexadecimal digits that stand for the processor and the number of cores that we may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.partition(":")[0].strip() in _PROCESSOR]
    described = "\n".join([*told, platform.machine(), str(machine()["cpus"])])
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def _root() -> Path:
    """As the XDG Base Directory Specification says: a relative path in the variable counts as none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:  # a user without a home
        raise CacheUnavailable(f"no cache folder: {error}; set XDG_CACHE_HOME") from error
