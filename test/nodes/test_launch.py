"""The launch files, executed by real launch; skipped where it is not installed (it is not on PyPI)."""

from __future__ import annotations

import array
import asyncio
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

# Not "launch": that would find the checkout's folder of this name.
pytest.importorskip("launch_ros", reason="launch and launch_ros come with a ROS 2 installation only")

from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import DEADLINE, client, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import String

from transkd_ros.bags.messages import image_message
from transkd_ros.bags.storage import BagWriter

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
SEGMENT = ROOT / "launch" / "segment.launch.py"
COMPARE = ROOT / "launch" / "compare.launch.py"
EVALUATE = ROOT / "launch" / "evaluate.launch.py"
EXECUTABLES = {  # name → module of nodes/
    "segmentation_node": "segmentation",
    "comparison_node": "comparison",
    "bag_player": "bag_player",
    "evaluation_node": "evaluation",
}
FRAMES = 8  # of each camera in a bag
NO_DESCRIPTION = "no description given"  # what launch shows then


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as an ament prefix, with executables that run this checkout."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "transkd_ros").touch()
    (tmp_path / "share" / "transkd_ros").symlink_to(ROOT)
    executables = tmp_path / "lib" / "transkd_ros"
    executables.mkdir(parents=True)
    for name, module in EXECUTABLES.items():
        (executables / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m transkd_ros.nodes.{module} "$@"\n')
        (executables / name).chmod(0o755)
    before = os.environ.get("AMENT_PREFIX_PATH")
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(filter(None, (str(tmp_path), before))))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))


EVERYWHERE = {"dds_profile", "log_level", "params_file"}
CAMERAS = {"cameras", "compressed", "use_sim_time", "namespace"}
ARGUMENTS = {
    SEGMENT: CAMERAS | {"model", "engine", "device", "precision", "overlay", "autostart"},
    COMPARE: {
        *("teacher", "teacher_engine", "teacher_device", "teacher_precision", "teacher_input_size"),
        *("student", "student_engine", "student_device", "student_precision", "student_input_size"),
        *("window", "output"),
        *CAMERAS,
    },
    EVALUATE: {
        *("bag", "model", "topics", "ground_truth", "labels", "offline", "output", "rate", "start_offset", "player"),
        *("engine", "device", "precision"),
    },
}


@pytest.mark.parametrize("file", ARGUMENTS, ids=lambda file: file.name)
def test_every_launch_argument_is_described(file):
    description = PythonLaunchDescriptionSource(str(file)).try_get_launch_description_without_context()
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert EVERYWHERE | ARGUMENTS[file] <= set(arguments)
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

    assert run_launch(SEGMENT, arguments, use) == 0


def test_teacher_and_student_hear_the_same_cameras_and_are_compared(installed, tiny_bundle, tmp_path):
    arguments = {
        "cameras": "front,/rear",  # /rear is not below the namespace
        "teacher": str(tiny_bundle.path),
        "student": str(tiny_bundle.path),
        "student_input_size": "128x96",
        "teacher_threads": "1",
        "namespace": "car",
        "output": str(tmp_path / "out"),
    }
    pixels = np.full((64, 96, 3), (10, 20, 200), np.uint8)
    frame = Image(height=64, width=96, step=96 * 3, encoding="rgb8", data=array.array("B", pixels.tobytes()))

    def use():
        with client() as user:
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            for camera, topic in (("front", "/fleet/car/front"), ("rear", "/rear")):
                said = []
                user.node.create_subscription(
                    String,
                    f"/fleet/car/{camera}/comparison/summary",
                    lambda message, s=said: s.append(message.data),
                    latched,
                )
                sec = iter(range(1, 10_000))

                def compared(said=said, sec=sec, topic=topic):
                    frame.header.stamp.sec = next(sec)
                    user.send(f"{topic}/image_raw", frame)
                    return said and json.loads(said[-1])["pairs"]["complete"] > 2

                wait_until(compared, f"pairs of {camera}")
            for side, size in (("teacher", "model"), ("student", "128x96")):
                names = GetParameters.Request(names=["input_size"])
                given = user.call(GetParameters, f"/fleet/car/{side}/segmentation_node/get_parameters", names)
                assert parameter_value_to_python(given.values[0]) == size

    assert run_launch(COMPARE, arguments, use, pushed="fleet") == 0
    cameras = json.loads((tmp_path / "out" / "comparison.json").read_text())["cameras"]
    assert {camera: result["agreement"]["total"]["miou"] for camera, result in cameras.items()} == {
        "front": 1.0,
        "rear": 1.0,
    }


@pytest.fixture
def drive(tmp_path, colours):
    """A bag of two cameras, one of them with a topic of another name, whose labels are the tiny model's answers."""
    with BagWriter(tmp_path / "drive") as bag:
        for index in range(FRAMES):
            pixels, stamp_ns = np.roll(colours, index, axis=1), 10**9 + index * 10**8
            truth = image_message(pixels.argmax(axis=2).astype(np.uint8), "mono8", stamp_ns)
            for frames, camera in (("/front/image_raw", "/front"), ("/rear", "/rear")):
                bag.write(frames, image_message(pixels, "rgb8", stamp_ns))
                bag.write(f"{camera}/ground_truth", truth)
    return tmp_path / "drive"


def test_a_bag_is_replayed_through_the_running_node_and_scored_and_all_ends_by_itself(
    installed, tiny_bundle, drive, tmp_path
):
    arguments = {"bag": str(drive), "model": str(tiny_bundle.path), "output": str(tmp_path / "out"), "rate": "2.0"}
    assert run_to_end(EVALUATE, arguments) == 0
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["models"]["tiny live"]["total"]["miou"] == 1.0
    for counts in result["live"]["cameras"].values():
        assert counts["in_bag"] == counts["sent"] == FRAMES
        assert counts["answered"] + counts["never_answered"] == FRAMES
    assert list(result["live"]["cameras"]) == ["/front", "/rear"]
    assert "Live against offline" in (tmp_path / "out" / "report.html").read_text()


def test_ros2_bag_plays_where_it_is_installed(installed, tiny_bundle, drive, tmp_path, monkeypatch):
    (tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "ros2bag").touch()
    ros2 = tmp_path / "bin" / "ros2"
    ros2.parent.mkdir()
    player = f'"{sys.executable}" -m transkd_ros.nodes.bag_player --ros-args -p bag:={drive} -r /rear:=/rear/image_raw'
    ros2.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "heard"}\nexec {player}\n')
    ros2.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ros2.parent}:{os.environ['PATH']}")
    arguments = {"bag": str(drive), "model": str(tiny_bundle.path), "output": str(tmp_path / "out")}
    assert run_to_end(EVALUATE, arguments) == 0
    command = (tmp_path / "heard").read_text()
    assert command.startswith(f"bag play {drive} --topics /front/image_raw /rear --clock")
    assert "--remap /rear:=/rear/image_raw" in command
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["live"]["gap"]["answered"]["live"] > 0


def test_a_bag_without_the_topic_ends_the_launch_with_the_topics_that_there_are(installed, drive, tmp_path, caplog):
    arguments = {"bag": str(drive), "topics": "/left/image_raw", "output": str(tmp_path / "out")}
    assert run_to_end(EVALUATE, arguments) == 1
    assert "no topic /left/image_raw" in caplog.text and "/front/image_raw, /rear" in caplog.text
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_fails_ends_the_launch_with_code_1(installed, drive, tmp_path, caplog):
    arguments = {"bag": str(drive), "model": str(tmp_path / "gone"), "output": str(tmp_path / "out")}
    assert run_to_end(EVALUATE, arguments) == 1
    assert "the evaluation ended with code 2" in caplog.text


def run_to_end(file, arguments):
    """Launch and wait until it ends by itself; launch's return code."""
    service = LaunchService(noninteractive=True)
    source = PythonLaunchDescriptionSource(str(file))
    service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=arguments.items()))
    return asyncio.run(asyncio.wait_for(service.run_async(), DEADLINE))


def run_launch(file, arguments, use, pushed=""):
    """Launch, call `use()` in another thread, stop; launch's return code. An exception of `use` is raised here.

    `pushed` is the namespace that an including launch file has pushed.
    """
    service = LaunchService(noninteractive=True)
    source = PythonLaunchDescriptionSource(str(file))
    included = IncludeLaunchDescription(source, launch_arguments=arguments.items())
    service.include_launch_description(LaunchDescription([GroupAction([PushRosNamespace(pushed), included])]))

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
