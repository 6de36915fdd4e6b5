"""The calibration of a mask, from that of its camera: what a sensor_msgs/CameraInfo becomes as its image does."""

from __future__ import annotations

from typing import Any

import numpy as np

from transkd_ros.region import Mapping
from transkd_ros.sizes import Size


def info_topic(image_topic: str) -> str:
    """Where drivers publish the calibration of `image_topic`: beside it, as image_transport looks for it."""
    return image_topic.rpartition("/")[0] + "/camera_info" if "/" in image_topic else "camera_info"


def image_size(info: Any) -> Size:
    """(height, width) of the images that a CameraInfo belongs to: of its region of interest, binned."""
    height, width = (info.roi.height, info.roi.width) if info.roi.width else (info.height, info.width)
    return height // (info.binning_y or 1), width // (info.binning_x or 1)


def mask_info(info: Any, size: Size, mapping: Mapping, header: Any) -> Any:
    """The CameraInfo of a mask of `size` (height, width), with `header`, which is shared.

    K and P say where a point lies in the mask itself: region of interest and binning of the camera, which they leave
    out, are worked in, and unset. Distortion and rectification do not depend on the size. Pixel centres are whole
    numbers, as everywhere in ROS.
    """
    from sensor_msgs.msg import CameraInfo

    bin_x, bin_y = info.binning_x or 1, info.binning_y or 1
    left, top = info.roi.x_offset / bin_x, info.roi.y_offset / bin_y
    to_frame = np.array([[1 / bin_x, 0, -left], [0, 1 / bin_y, -top], [0, 0, 1]])
    scale_x, scale_y, shift_x, shift_y = mapping  # of corners: a centre is half a pixel further
    to_mask = np.array(
        [
            [scale_x, 0, scale_x / 2 + shift_x - 0.5],
            [0, scale_y, scale_y / 2 + shift_y - 0.5],
            [0, 0, 1],
        ]
    )
    moved = to_mask @ to_frame
    adapted = CameraInfo(header=header, height=size[0], width=size[1], distortion_model=info.distortion_model)
    adapted.d, adapted.r = info.d, info.r
    adapted.k = (moved @ np.reshape(info.k, (3, 3))).ravel()
    adapted.p = (moved @ np.reshape(info.p, (3, 4))).ravel()
    return adapted
