"""Start the segmentation node: `ros2 launch transkd_ros segment.launch.py cameras:=front,rear model:=camvid_light`.

An argument that is left empty keeps what the parameter file says.
"""

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

from transkd_ros.nodes.launching import (
    COMPRESSED,
    DDS_PROFILE,
    LOG_LEVEL,
    SWITCH,
    USE_SIM_TIME,
    argument,
    names,
    node,
    override,
    transport,
    values,
)
from transkd_ros.resources import share_directory

RESPAWN_DELAY = 2.0  # seconds
CONFIG = share_directory() / "config"


ARGUMENTS = [
    override("cameras", "Camera names, e.g. front,rear; their topics are <camera>/image_raw."),
    override("image_topics", "Image topics, below the camera's name or absolute: one for all or one for each camera."),
    override("model", "Name of a shipped model, or path of a model bundle."),
    override("engine", "Inference engine: auto, openvino, onnxruntime or torch."),
    override("device", "Device: auto, cpu, gpu or npu (Intel), cuda or tensorrt (NVIDIA)."),
    override("precision", "Arithmetic of the network: auto, fp32, bf16, fp16 or int8."),
    override("mask_size", "Size of the masks: frame, model, or WIDTHxHEIGHT, e.g. 400x200."),
    override("max_rate", "Frames a second of each camera that are segmented; 0.0: all."),
    override("lazy", "Segment only while someone listens.", SWITCH),
    override("overlay", "Offer the topic <camera>/segmentation/overlay.", SWITCH),
    COMPRESSED,
    override("autostart", "Configure and activate at start; false leaves it to ros2 lifecycle.", SWITCH),
    USE_SIM_TIME,
    argument("respawn", "Start the node anew when its engine fails for good.", "false", SWITCH[1:]),
    argument("namespace", "Namespace of the node and its camera topics.", ""),
    DDS_PROFILE,
    LOG_LEVEL,
    argument("params_file", "Parameter file; the arguments given above override it.", str(CONFIG / "segment.yaml")),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[Node]:
    given = values(context, ARGUMENTS)
    texts = ("model", "engine", "device", "precision", "mask_size")
    overrides: dict[str, Any] = {name: given[name] for name in texts if given[name]}
    overrides |= {name: given[name] == "true" for name in ("lazy", "overlay", "autostart") if given[name]}
    if given["max_rate"]:
        overrides["max_rate"] = float(given["max_rate"])
    overrides["use_sim_time"] = given["use_sim_time"] == "true"
    overrides |= transport(given["compressed"])
    if given["cameras"]:
        overrides["cameras"] = names(given["cameras"])
    if given["image_topics"]:
        overrides["image_topics"] = names(given["image_topics"])
    respawn: dict[str, Any] = {}
    if given["respawn"] == "true":
        overrides["on_engine_failure"] = "exit"
        respawn = {"respawn": True, "respawn_delay": RESPAWN_DELAY}
    return [node("segmentation_node", given, overrides, namespace=given["namespace"], **respawn)]
