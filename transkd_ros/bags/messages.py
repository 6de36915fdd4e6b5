"""Camera messages as bags hold them: the rosbags library's dataclasses, with the attributes of the sensor_msgs ones.

`transkd_ros.frames` decodes both; as CDR bytes they go into a bag, or out through an rclpy publisher.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from transkd_ros.frames import image_fields

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"

# The image messages are the same, byte for byte and in their type hash, from Humble to Kilted.
STORE = get_typestore(Stores.ROS2_HUMBLE)


def image_message(pixels: np.ndarray, encoding: str, stamp_ns: int, frame_id: str = "camera") -> Any:
    """A sensor_msgs/Image of the pixels, see `frames.image_fields`."""
    return STORE.types[IMAGE](header=_header(stamp_ns, frame_id), **image_fields(pixels, encoding))


def compressed_message(data: bytes, image_format: str, stamp_ns: int, frame_id: str = "camera") -> Any:
    """A sensor_msgs/CompressedImage of the bytes of an image file; `image_format` is `jpeg` or `png`."""
    return STORE.types[COMPRESSED_IMAGE](
        header=_header(stamp_ns, frame_id), format=image_format, data=np.frombuffer(data, np.uint8)
    )


def header_stamp(message: Any) -> int:
    """The header's stamp in ns."""
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def serialize(message: Any, stamp_ns: int | None = None) -> bytes:
    """The message as CDR, which an rclpy publisher takes as it is; `stamp_ns` goes into its header."""
    if stamp_ns is not None:
        message.header = _header(stamp_ns, message.header.frame_id)
    return bytes(STORE.serialize_cdr(message, message.__msgtype__))


def deserialize(data: bytes, kind: str) -> Any:
    """The message of the CDR bytes of a recorded or raw one; `kind` is its type, e.g. IMAGE."""
    return STORE.deserialize_cdr(data, kind)


def _header(stamp_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)
