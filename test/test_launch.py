"""The launch files, executed by real launch; skipped where it is not installed (it is not on PyPI)."""

from __future__ import annotations

import array
import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest

# Not "launch": that would find the checkout's folder of this name.
pytest.importorskip("launch_ros", reason="launch and launch_ros come with a ROS 2 installation only")

from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from ros_graph import DEADLINE, client
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parent.parent
SEGMENT = ROOT / "launch" / "segment.launch.py"
NO_DESCRIPTION = "no description given"  # what launch shows then


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as an ament prefix, with an executable that runs this checkout."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "transkd_ros").touch()
    (tmp_path / "share" / "transkd_ros").symlink_to(ROOT)
    executable = tmp_path / "lib" / "transkd_ros" / "segmentation_node"
    executable.parent.mkdir(parents=True)
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m transkd_ros.nodes.segmentation "$@"\n')
    executable.chmod(0o755)
    before = os.environ.get("AMENT_PREFIX_PATH")
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(filter(None, (str(tmp_path), before))))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))


def test_every_launch_argument_is_described():
    description = PythonLaunchDescriptionSource(str(SEGMENT)).try_get_launch_description_without_context()
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert {"cameras", "model", "engine", "device", "precision", "overlay", "compressed"} < set(arguments)
    assert {"use_sim_time", "log_level", "namespace", "params_file", "autostart"} < set(arguments)
    assert not [name for name, argument in arguments.items() if argument.description == NO_DESCRIPTION]


def test_the_launched_node_segments_each_camera_below_its_namespace(installed, tiny_bundle):
    arguments = {"cameras": "front,rear", "model": str(tiny_bundle.path), "namespace": "car"}
    pixels = np.full((64, 96, 3), (10, 20, 200), np.uint8)
    frame = Image(height=64, width=96, step=96 * 3, encoding="rgb8", data=array.array("B", pixels.tobytes()))

    def use():
        with client() as user:
            for camera in ("front", "rear"):
                masks = user.listen(Image, f"/car/{camera}/segmentation/mask")
                user.send_until(lambda masks=masks: masks, f"a mask of {camera}", f"/car/{camera}/image_raw", frame)
                assert set(masks[0].data) == {2}

    assert run_launch(arguments, use) == 0


def run_launch(arguments, use):
    """Launch, call `use()` in another thread, stop; launch's return code. An exception of `use` is raised here."""
    service = LaunchService(noninteractive=True)
    source = PythonLaunchDescriptionSource(str(SEGMENT))
    service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=arguments.items()))

    async def main():
        running = asyncio.ensure_future(service.run_async())
        try:
            await asyncio.get_running_loop().run_in_executor(None, use)
        finally:
            await asyncio.wait_for(asyncio.gather(running, _shutdown(service)), DEADLINE)
        return running.result()

    return asyncio.run(main())


async def _shutdown(service):
    stopping = service.shutdown()
    if stopping is not None:
        await stopping
