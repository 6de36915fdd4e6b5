"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`: afterwards the file holds all of it, or is as it was before.

    Raises OSError if the folder is missing or not writable; no temporary file stays behind.
    """
    path = Path(path)
    # A file of the same folder is on the same file system, so the rename cannot turn into a copy.
    # It is not made by `tempfile`, whose files are private (mode 0600) instead of following the umask.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
