"""How a size is written down: WIDTHxHEIGHT in a line of text, `{width: 512, height: 384}` in YAML and JSON.

The code has (height, width), as arrays have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Size = tuple[int, int]
"""(height, width) in pixels."""


def parse(text: str) -> Size:
    """The size of `640x480`, as on command lines and in parameters of nodes. Raises ValueError."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"{text} is not WIDTHxHEIGHT, e.g. 640x480")
    return int(height), int(width)


def text(size: Size) -> str:
    """What `parse` reads."""
    height, width = size
    return f"{width}x{height}"


def read(value: Any) -> Size:
    """The size that a file's value names; older files have the list [height, width]. Raises ValueError."""
    if isinstance(value, Mapping) and value.keys() == {"width", "height"}:
        sides = [value["height"], value["width"]]
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        sides = list(value)
    else:
        sides = []
    if not (sides and all(type(side) is int and side > 0 for side in sides)):
        raise ValueError(f"{value} is not {{width: …, height: …}} in pixels")
    return sides[0], sides[1]


def named(size: Size) -> dict[str, int]:
    """What `read` reads, for YAML and JSON."""
    height, width = size
    return {"width": width, "height": height}
