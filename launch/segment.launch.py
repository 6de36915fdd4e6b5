"""Start the segmentation node: `ros2 launch transkd_ros segment.launch.py cameras:=front,rear model:=camvid_lite0`.

An argument that is left empty keeps what the parameter file says.
"""

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from transkd_ros.resources import dds_environment, share_directory

CONFIG = share_directory() / "config"


def argument(name: str, description: str, default: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, description=description, default_value=default, choices=choices)


def override(name: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    return argument(name, f"{description} Empty: as in params_file.", "", choices)


SWITCH = ["", "true", "false"]
ARGUMENTS = [
    override("cameras", "Camera names, e.g. front,rear; their topics are <camera>/image_raw."),
    override("model", "Name of a shipped model, or path of a model bundle."),
    override("engine", "Inference engine: auto, openvino, onnxruntime or torch."),
    override("device", "Device: auto, cpu, gpu or npu (Intel), cuda or tensorrt (NVIDIA)."),
    override("precision", "Arithmetic of the network: auto, fp32, bf16 or fp16."),
    override("overlay", "Offer the topic <camera>/segmentation/overlay.", SWITCH),
    override("compressed", "Subscribe to <camera>/image_raw/compressed.", SWITCH),
    override("autostart", "Configure and activate at start; false leaves it to ros2 lifecycle.", SWITCH),
    argument("use_sim_time", "Take the time from /clock, as bags and simulators publish it.", "false", SWITCH[1:]),
    argument("namespace", "Namespace of the node and its camera topics.", ""),
    argument("log_level", "Least severity to log: debug, info, warn, error or fatal.", "info"),
    argument("params_file", "Parameter file; the arguments given above override it.", str(CONFIG / "segment.yaml")),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[Node]:
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    overrides = {name: given[name] for name in ("model", "engine", "device", "precision") if given[name]}
    overrides |= {name: given[name] == "true" for name in ("overlay", "autostart") if given[name]}
    overrides["use_sim_time"] = given["use_sim_time"] == "true"
    if given["compressed"]:
        overrides["image_transport"] = "compressed" if given["compressed"] == "true" else "raw"
    if given["cameras"]:
        overrides["cameras"] = _names(given["cameras"])
    return [
        Node(
            package="transkd_ros",
            executable="segmentation_node",
            name="segmentation_node",
            namespace=given["namespace"],
            parameters=[given["params_file"], overrides],
            arguments=["--ros-args", "--log-level", given["log_level"]],
            additional_env=dds_environment(),
            output="screen",
            emulate_tty=True,
        )
    ]


def _names(text: str) -> list[str]:
    """`front,rear` or `[front, rear]`."""
    return [str(name) for name in yaml.safe_load(text if text.startswith("[") else f"[{text}]")]
