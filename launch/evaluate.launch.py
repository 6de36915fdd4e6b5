"""Replay a bag through the running node, and score it: `ros2 launch transkd_ros evaluate.launch.py bag:=X model:=Y`.

Starts the segmentation node and the evaluation node, plays the bag when both are there, and ends when metrics.json and
report.html are written. An argument that is left empty keeps what the parameter files say.
"""

import shutil
from pathlib import Path

from ament_index_python.packages import get_packages_with_prefixes
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown
from launch.events.process import ProcessExited, ProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from transkd_ros.evaluate.replay import Replay, plan
from transkd_ros.nodes.evaluation import READY
from transkd_ros.nodes.launching import DDS_PROFILE, LOG_LEVEL, argument, names, node, override, values
from transkd_ros.resources import dds_environment, share_directory

CONFIG = share_directory() / "config"
PLAYERS = ["auto", "ros2bag", "bag_player"]
SCORING = "600"  # seconds that the evaluation has after Ctrl-C before it is asked again
DISCOVERY = 2.0  # seconds that `ros2 bag play`, which waits for nobody, gives the subscriptions to find it


ARGUMENTS = [
    argument("bag", "The bag to replay: a folder with metadata.yaml, a .mcap or a .db3 file.", None),
    override("model", "Name of a shipped model, or path of a model bundle."),
    override("topics", "Image topics of the bag, e.g. /front/image_raw,/rear/image_raw; by default every camera."),
    override("ground_truth", "Label topic, or its name below each camera; by default ground_truth."),
    override("classes", "Class table of the labels, a name or a file; by default what the bag says."),
    override("labels", "Folder of label images instead, named by stamp (ns) or else in order."),
    override("offline", "A metrics.json to set beside the live one, or run for an offline evaluation afterwards."),
    override("output", "Folder of metrics.json and report.html."),
    argument("rate", "Bag seconds per second.", "1.0"),
    argument("start_offset", "Seconds to leave out at the start of the bag.", "0.0"),
    argument("player", "ros2bag, bag_player (of this package), or auto: ros2bag where it is.", "auto", PLAYERS),
    override("engine", "Inference engine: auto, openvino, onnxruntime or torch."),
    override("device", "Device: auto, cpu, gpu or npu (Intel), cuda or tensorrt (NVIDIA)."),
    override("precision", "Arithmetic of the network: auto, fp32, bf16, fp16 or int8."),
    DDS_PROFILE,
    LOG_LEVEL,
    argument("params_file", "Parameter file of evaluation and player.", str(CONFIG / "evaluate.yaml")),
    argument("segment_params_file", "Parameter file of the segmentation node.", str(CONFIG / "segment.yaml")),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[Action]:
    given = values(context, ARGUMENTS)
    topics = names(given["topics"])
    replay = plan(Path(given["bag"]), topics, given["ground_truth"], given["labels"], given["classes"])
    with_ros2_bag = given["player"] == "ros2bag" or (given["player"] == "auto" and _has_ros2_bag())
    player = (_ros2_bag if with_ros2_bag else _bag_player)(replay, given)
    evaluation = _evaluation(replay, given, hears_all=not with_ros2_bag)
    started: list[Action] = []

    def start_player(event: ProcessIO) -> list[Action]:
        if started or READY not in event.text.decode(errors="replace"):
            return []
        started.append(player)
        return [player]

    return [
        _segmentation(replay, given),
        evaluation,
        RegisterEventHandler(
            OnProcessIO(target_action=evaluation, on_stdout=start_player, on_stderr=start_player)
        ),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=_on_player_exit)),
        RegisterEventHandler(OnProcessExit(target_action=evaluation, on_exit=_on_evaluation_exit)),
    ]  # fmt: skip


def _segmentation(replay: Replay, given: dict[str, str]) -> Action:
    source = PythonLaunchDescriptionSource(str(share_directory() / "launch" / "segment.launch.py"))
    arguments = {name: given[name] for name in ("model", "engine", "device", "precision", "dds_profile", "log_level")}
    arguments |= {
        "cameras": ",".join(camera.name for camera in replay.cameras),
        "compressed": "true" if replay.compressed else "false",
        "use_sim_time": "true",
        "params_file": given["segment_params_file"],
    }
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())


def _evaluation(replay: Replay, given: dict[str, str], hears_all: bool) -> Node:
    options = ("model", "ground_truth", "labels", "classes", "offline", "output")
    overrides = {name: given[name] for name in options if given[name]}
    overrides |= {"bag": given["bag"], "topics": replay.topics}
    if hears_all:  # `ros2 bag play` offers what was recorded, which may be best effort
        overrides["qos_reliability"] = "reliable"
    return node("evaluation_node", given, overrides, sigterm_timeout=SCORING)


def _bag_player(replay: Replay, given: dict[str, str]) -> Node:
    overrides = {
        "bag": given["bag"],
        "topics": replay.topics,
        "rate": float(given["rate"]),
        "start_offset": float(given["start_offset"]),
        "wait_for_subscribers": 2 * len(replay.topics),  # segmentation and evaluation
        "qos_reliability": "reliable",
    }
    return node("bag_player", given, overrides, remappings=replay.renamed())


def _ros2_bag(replay: Replay, given: dict[str, str]) -> ExecuteProcess:
    command = ["ros2", "bag", "play", given["bag"], "--topics", *replay.topics, "--clock", "100"]
    command += ["--rate", given["rate"], "--start-offset", given["start_offset"], "--delay", str(DISCOVERY)]
    command += ["--disable-keyboard-controls"]
    if renamed := replay.renamed():
        command += ["--remap", *(f"{topic}:={played}" for topic, played in renamed)]
    return ExecuteProcess(cmd=command, additional_env=dds_environment(given["dds_profile"]), output="screen")


def _has_ros2_bag() -> bool:
    return shutil.which("ros2") is not None and "ros2bag" in get_packages_with_prefixes()


def _on_player_exit(event: ProcessExited, context: LaunchContext) -> None:
    """The evaluation notices the end by itself, but not that of a player that never played."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"the player ended with code {event.returncode}")


def _on_evaluation_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"the evaluation ended with code {event.returncode}")
    return [EmitEvent(event=Shutdown(reason="the evaluation is done"))]
