"""The soak's own parts; a soak itself takes minutes: `make soak`."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from transkd_ros.frames import FrameError, decode_image
from transkd_ros.soak.camera import broken


@pytest.mark.parametrize("how", range(5))
def test_what_the_soak_calls_malformed_is_refused_by_the_decoder(how):
    with pytest.raises(FrameError):
        decode_image(broken(np.zeros((240, 320, 3), np.uint8), how))


def test_a_soak_of_no_time_is_refused_with_one_line():
    command = [sys.executable, "-m", "transkd_ros.soak", "--minutes", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--minutes 0" in done.stderr and len(done.stderr.splitlines()) == 1
