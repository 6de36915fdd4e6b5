"""Sizes in recipes: `{width: 512, height: 384}`, on a command line `512x384`; older recipes have [height, width].

How sizes are read and written is said in `transkd_ros.sizes`; here jsonargparse learns of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jsonargparse.typing import register_type

from transkd_ros import sizes


class ImageSize(NamedTuple):
    """(height, width) in pixels, as an option of a recipe."""

    height: int
    width: int


def _read(value: Any) -> ImageSize:
    return ImageSize(*(sizes.parse(value) if isinstance(value, str) else sizes.read(value)))


register_type(ImageSize, serializer=sizes.named, deserializer=_read)
