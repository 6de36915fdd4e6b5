"""Reading `model.pt2` without unpickling anything.

`torch.export.load` unpickles sample inputs, tensors marked `use_pickle` and custom objects, and it evaluates
some of the program's text as Python. A vehicle must not run code out of a data file, so torch is handed a
copy of the archive that holds only plain tensors and a program of ATen operators. Does not import torch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transkd_ros.model.bundle import BundleError

# Archive members that are plain data; sample inputs (a pickle that inference does not need) are emptied.
_PLAIN = re.compile(
    r"[^/]+/(models/model\.json|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/(weights|constants)/model_\w+_config\.json|archive_format|archive_version|byteorder|\.data/\w+)"
)
_SAMPLE_INPUTS = re.compile(r"[^/]+/data/sample_inputs/model\.pt")
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+|_operator\.\w+")
# torch reads shape expressions with sympy, which evaluates them as Python: only arithmetic on symbols passes.
_WORD = re.compile(r"[A-Za-z_]\w*")
_EXPRESSION = re.compile(r"[\w\s'=(),*/+-]*")
_EXPRESSION_WORDS = re.compile(
    r"[su]\d+|Symbol|Integer|Add|Mul|Pow|Mod|FloorDiv|CleanDiv|Max|Min|True|False|positive|nonnegative|integer"
)


def read_program(path: Path) -> io.BytesIO:
    """The archive `model.pt2` as `torch.export.load` may read it; BundleError if it holds more than data."""
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
            _check_size(source, path.stat().st_size)
            for member in source.infolist():
                target.writestr(member.filename, _plain(member.filename, source.read(member)))
    except (zipfile.BadZipFile, json.JSONDecodeError, RecursionError, _NotPlainError) as error:
        raise BundleError(
            f"{path} is not a plain torch.export program: {error}; "
            "export it again with `python training/export.py --torch`"
        ) from error
    copy.seek(0)
    return copy


class _NotPlainError(Exception):
    """What in the archive is not plain data."""


def _check_size(archive: zipfile.ZipFile, size: int) -> None:
    """torch.export stores its members as they are; a compressed one of some kB could announce gigabytes."""
    announced = sum(member.file_size for member in archive.infolist())
    if announced > size:
        raise _NotPlainError(f"its {size} bytes announce {announced}")


def _plain(name: str, content: bytes) -> bytes:
    if _SAMPLE_INPUTS.fullmatch(name):
        return b""
    if not _PLAIN.fullmatch(name):
        raise _NotPlainError(f"it holds {name}")
    if name.endswith("_config.json") and any(
        value for key, value in _items(json.loads(content)) if key == "use_pickle"
    ):
        raise _NotPlainError(f"{name} asks for a pickle")
    if name.endswith("models/model.json"):
        program = json.loads(content)
        program["guards_code"] = []  # Python text that checks input shapes; the graph itself does not need it
        _check_program(program)
        return json.dumps(program).encode()
    return content


def _check_program(program: dict[str, Any]) -> None:
    expressions = list(program["range_constraints"])
    for key, value in _items(program):
        if key == "target" and isinstance(value, str) and not _OPERATOR.fullmatch(value):
            raise _NotPlainError(f"it calls {value}")
        if key == "expr_str":
            expressions.append(value)
    for expression in expressions:
        words = _WORD.findall(expression)
        if not _EXPRESSION.fullmatch(expression) or not all(
            _EXPRESSION_WORDS.fullmatch(word) for word in words
        ):
            raise _NotPlainError(f"it holds the expression {expression!r}")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of every object inside `value`."""
    if isinstance(value, dict):
        yield from value.items()
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _items(child)
