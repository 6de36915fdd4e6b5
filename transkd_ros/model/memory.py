"""Memory that engines and frames have freed, and the C library keeps."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """To the system, what tuning, compiling, an engine's end and the frames before a deactivate have freed: glibc keeps
    it, for each of their threads.

    Measured: 177 MB resident after each of 20 times configure and cleanup, instead of 206 MB that grow to 224.
    """
    with contextlib.suppress(AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
