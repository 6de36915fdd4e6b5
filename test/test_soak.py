"""The soak's own parts; a soak itself takes minutes: `make soak`."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from transkd_ros.frames import FrameError, decode_image
from transkd_ros.soak.camera import broken
from transkd_ros.soak.verdict import checks
from transkd_ros.soak.watch import footprint, unexplained


@pytest.mark.parametrize("how", range(5))
def test_what_the_soak_calls_malformed_is_refused_by_the_decoder(how):
    with pytest.raises(FrameError):
        decode_image(broken(np.zeros((240, 320, 3), np.uint8), how))


def test_a_soak_of_no_time_is_refused_with_one_line():
    command = [sys.executable, "-m", "transkd_ros.soak", "--minutes", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--minutes 0" in done.stderr and len(done.stderr.splitlines()) == 1


def judged(memory=(), **found):
    """The checks that a soak with this memory (MB) after each round does not pass; all else went well."""
    samples = [{"memory_mb": mb, "shared_mb": 18.0, "threads": 25, "descriptors": 27} for mb in memory]
    watcher = SimpleNamespace(wrong={}, oldest_mask=0.6, oldest_begun=0.4)
    rounds = SimpleNamespace(samples=samples, unexplained=[0, 0])
    for name, value in found.items():
        setattr(watcher if hasattr(watcher, name) else rounds, name, value)
    return [name for name, check in checks(watcher, rounds, "").items() if not check["met"]]


STEADY = [300.0, *[280.0, 284.0, 279.0, 281.0] * 5]


def test_a_node_that_needs_memory_at_first_and_no_more_later_has_no_leak():
    assert judged([200.0, 240.0, 260.0, *STEADY]) == []


def test_memory_that_grows_by_a_little_in_every_round_is_a_leak():
    assert judged([mb + 0.5 * i for i, mb in enumerate(STEADY)]) == ["own memory grows less than 2 %"]


def test_a_soak_that_ended_in_its_first_round_shows_nothing():
    failed = judged([280.0], unexplained=[], oldest_mask=0.0)
    assert {"frames in = masks + drops", "own memory grows less than 2 %", "threads constant"} <= set(failed)


@pytest.mark.parametrize("found", [{"wrong": {"mask": 1}}, {"oldest_begun": 1.1}, {"unexplained": [1, -1]}])
def test_one_wrong_thing_fails_a_soak(found):
    assert len(judged(STEADY, **found)) == 1


def test_a_frame_without_mask_and_cause_is_unexplained():
    assert unexplained({"received": 10, "masks": 4, "dropped superseded": 5}) == 1


def test_the_footprint_of_a_process_tells_its_memory_and_its_open_files(tmp_path):
    before = footprint(os.getpid())
    with (tmp_path / "file").open("wb"), (tmp_path / "other").open("wb"):
        kept = np.ones(50_000_000, np.uint8)
        after = footprint(os.getpid())
    assert after["descriptors"] == before["descriptors"] + 2
    assert after["memory_mb"] > before["memory_mb"] + 0.9 * kept.nbytes / 1e6
    assert after["shared_mb"] < before["shared_mb"] + 1
