"""A frame is taken as late as the device allows, so that it is fresh when the device is free."""

import threading

import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from transkd_ros.nodes.segmentation.pace import MARGIN, Pace


def paced(*inferences, preparation=0.004):
    pace = Pace()
    for seconds in inferences:
        pace.begin_inference(0.0)
        pace.end_inference(seconds)
    pace.prepared(preparation)
    return pace


def test_it_is_time_when_the_inference_ends_less_what_preparing_takes():
    pace = paced(0.1)
    pace.begin_inference(5.0)
    assert pace.early(5.01) == pytest.approx(0.1 - 0.01 - 0.004 - MARGIN)
    assert pace.early(5.2) == 0


def test_one_slow_inference_does_not_hold_up_the_next():
    pace = paced(0.1, 7.0, 0.11)
    pace.begin_inference(5.0)
    assert pace.early(5.0) < 0.1


@pytest.mark.parametrize("pace", [paced(), paced(0.1)], ids=["nothing known", "no inference under way"])
def test_otherwise_a_frame_is_taken_at_once(pace):
    if pace.early(0.0) == 0:
        pace.wait()
    assert pace.early(0.0) == 0


def test_an_inference_that_ends_sooner_ends_the_wait():
    pace = paced(1000.0)
    pace.begin_inference(0.0)
    pace.early = lambda now: 1000.0
    waiting = threading.Thread(target=pace.wait, daemon=True)
    waiting.start()
    pace.end_inference(0.1)
    waiting.join(10)
    assert not waiting.is_alive()
