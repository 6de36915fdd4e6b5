"""Cameras as they are: their own topics, their calibration, regions of their frames."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from ros_graph import wait_until
from segmentation_graph import change_state, image, log_lines, pixels_of, running, set_parameter
from sensor_msgs.msg import CameraInfo, Image

pytestmark = pytest.mark.ros


def calibration(height, width, **fields):
    """Of a camera with its centre in the middle; `fields` of the CameraInfo beside."""
    k = [100.0, 0.0, width / 2, 0.0, 110.0, height / 2, 0.0, 0.0, 1.0]
    p = [100.0, 0.0, width / 2, -7.0, 0.0, 110.0, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return CameraInfo(height=height, width=width, k=k, p=p, d=[0.1], distortion_model="plumb_bob", **fields)


def projected(info, x, y, z=1.0):
    """Pixel of a point in the camera's frame."""
    u, v, w = np.reshape(info.p, (3, 4)) @ (x, y, z, 1.0)
    return u / w, v / w


def test_each_camera_has_an_image_topic_of_its_own(user, bundle_path, colours):
    cameras = {"zed": "rgb/color/rect/image", "usb": "/image_raw"}
    with running(bundle_path, cameras=list(cameras), image_topics=list(cameras.values())):
        for name, topic in cameras.items():
            masks = user.listen(Image, f"{name}/segmentation/mask")
            user.send_until(
                lambda masks=masks: masks,
                f"a mask of {name}",
                topic if topic[0] == "/" else f"{name}/{topic}",
                image(colours),
            )


def test_lists_that_do_not_fit_the_cameras_are_refused(user, bundle_path, capfd):
    with running(bundle_path, cameras=["a", "b"], autostart=False):
        for name, value, text in (
            ("image_topics", ["x", "y", "z"], "image_topics is given 3 times for 2 cameras"),
            ("roi", [1] * 12, "roi is given 3 times for 2 cameras"),
        ):
            assert set_parameter(user, name, value) == (True, "")
            assert not change_state(user, "configure")
            assert any(text in line for line in log_lines(capfd, "ERROR"))
            assert set_parameter(user, name, {"image_topics": ["image_raw"], "roi": [0] * 4}[name]) == (True, "")
        assert not set_parameter(user, "roi", [1, 2, 3])[0]
        assert not set_parameter(user, "image_topics", ["a b"])[0]
        assert not set_parameter(user, "image_topics", [])[0]


def test_the_mask_has_the_calibration_of_its_camera_at_its_own_size(user, bundle_path, colours, capfd):
    infos = user.listen(CameraInfo, "camera/segmentation/camera_info")
    with running(bundle_path, mask_size="192x32"):
        user.send_until(
            lambda: user.send("camera/image_raw", image(colours, sec=7)) or infos,
            "the calibration",
            "camera/camera_info",
            calibration(64, 96),
        )
        heard = infos[-1]
        assert (heard.height, heard.width) == (32, 192)
        assert heard.header.stamp.sec == 7 and heard.header.frame_id == "lens"
        assert list(heard.d) == [0.1] and heard.distortion_model == "plumb_bob"
        u, v = projected(calibration(64, 96), 0.1, 0.2)
        assert projected(heard, 0.1, 0.2) == pytest.approx(((u + 0.5) * 2 - 0.5, (v + 0.5) / 2 - 0.5))
        assert heard.k[0] == pytest.approx(200.0) and heard.p[3] == pytest.approx(-14.0)

        wrong = calibration(480, 640)
        user.send("camera/camera_info", wrong)

        def complained():
            user.send("camera/image_raw", image(colours))
            return any("camera_info is of 640x480 images" in line for line in log_lines(capfd, "WARN"))

        wait_until(complained, "a warning of the wrong calibration")

        binned = calibration(256, 384, binning_x=2, binning_y=2)
        binned.roi.x_offset, binned.roi.y_offset, binned.roi.height, binned.roi.width = 100, 50, 128, 192
        count = len(infos)
        user.send_until(
            lambda: user.send("camera/image_raw", image(colours)) or len(infos) > count,
            "the calibration of a binned region",
            "camera/camera_info",
            binned,
        )
        u, v = projected(binned, 0.1, 0.2)
        u, v = (u - 100) / 2, (v - 50) / 2
        assert projected(infos[-1], 0.1, 0.2) == pytest.approx(((u + 0.5) * 2 - 0.5, (v + 0.5) / 2 - 0.5))
        assert infos[-1].binning_x == infos[-1].roi.width == 0


def test_only_the_region_of_each_camera_is_segmented_and_the_view_of_the_model_has_its_calibration(
    user, bundle_path, colours
):
    masks, infos = (
        user.listen(kind, f"b/segmentation/{topic}") for kind, topic in ((Image, "mask"), (CameraInfo, "camera_info"))
    )
    roi = [0, 0, 0, 0, 16, 32, 32, 48]
    with running(bundle_path, cameras=["a", "b"], roi=roi):
        user.send_until(lambda: masks, "a mask", "b/image_raw", image(colours))
        mask = pixels_of(masks[0])
        assert (mask != 255).sum() == 32 * 48 and (mask[16:48, 32:80] != 255).all()
    with running(bundle_path, cameras=["a", "b"], roi=roi, mask_size="model", fit="letterbox"):
        user.send_until(
            lambda: user.send("b/image_raw", image(colours)) or infos,
            "the calibration",
            "b/camera_info",
            calibration(64, 96),
        )
        u, v = projected(calibration(64, 96), 0.1, 0.05)
        assert projected(infos[-1], 0.1, 0.05) == pytest.approx(((u + 0.5 - 32) * 2 - 0.5, (v + 0.5 - 16) * 2 - 0.5))
