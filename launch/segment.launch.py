"""Start the segmentation node: `ros2 launch transkd_ros segment.launch.py cameras:=front,rear model:=camvid_lite0`.

An argument that is left empty keeps what the parameter file says.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

from transkd_ros.nodes.launching import (
    DDS_PROFILE,
    LOG_LEVEL,
    SWITCH,
    argument,
    names,
    node,
    override,
    transport,
    values,
)
from transkd_ros.resources import share_directory

CONFIG = share_directory() / "config"


ARGUMENTS = [
    override("cameras", "Camera names, e.g. front,rear; their topics are <camera>/image_raw."),
    override("model", "Name of a shipped model, or path of a model bundle."),
    override("engine", "Inference engine: auto, openvino, onnxruntime or torch."),
    override("device", "Device: auto, cpu, gpu or npu (Intel), cuda or tensorrt (NVIDIA)."),
    override("precision", "Arithmetic of the network: auto, fp32, bf16, fp16 or int8."),
    override("overlay", "Offer the topic <camera>/segmentation/overlay.", SWITCH),
    override("compressed", "Subscribe to <camera>/image_raw/compressed.", SWITCH),
    override("autostart", "Configure and activate at start; false leaves it to ros2 lifecycle.", SWITCH),
    argument("use_sim_time", "Take the time from /clock, as bags and simulators publish it.", "false", SWITCH[1:]),
    argument("namespace", "Namespace of the node and its camera topics.", ""),
    DDS_PROFILE,
    LOG_LEVEL,
    argument("params_file", "Parameter file; the arguments given above override it.", str(CONFIG / "segment.yaml")),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[Node]:
    given = values(context, ARGUMENTS)
    overrides = {name: given[name] for name in ("model", "engine", "device", "precision") if given[name]}
    overrides |= {name: given[name] == "true" for name in ("overlay", "autostart") if given[name]}
    overrides["use_sim_time"] = given["use_sim_time"] == "true"
    overrides |= transport(given["compressed"])
    if given["cameras"]:
        overrides["cameras"] = names(given["cameras"])
    return [node("segmentation_node", given, overrides, namespace=given["namespace"])]
