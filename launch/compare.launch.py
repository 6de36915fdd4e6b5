"""Start a student beside its teacher: `ros2 launch transkd_ros compare.launch.py cameras:=front student:=my_model`.

Two segmentation nodes, in the namespaces teacher and student, hear the same cameras; the comparison node pairs their
masks. An argument that is left empty keeps what the parameter file says.
"""

from __future__ import annotations

import posixpath
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from transkd_ros.nodes.launching import (
    COMPRESSED,
    DDS_PROFILE,
    LOG_LEVEL,
    USE_SIM_TIME,
    argument,
    names,
    node,
    override,
    transport,
    values,
)
from transkd_ros.resources import share_directory

CONFIG = share_directory() / "config"
SIDES = ("teacher", "student")
REPORTING = "60"  # seconds that the comparison node has after Ctrl-C to write its report


def side_arguments(side: str) -> list[DeclareLaunchArgument]:
    return [
        override(side, f"Model of the {side}: name of a shipped one, or path of a bundle."),
        override(f"{side}_engine", f"Engine of the {side}: auto, openvino, onnxruntime or torch."),
        override(f"{side}_device", f"Device of the {side}: auto, cpu, gpu or npu (Intel), cuda or tensorrt (NVIDIA)."),
        override(f"{side}_precision", f"Arithmetic of the {side}: auto, fp32, bf16, fp16 or int8."),
        override(f"{side}_input_size", f"What the {side} sees: model (its own size) or WIDTHxHEIGHT, e.g. 512x384."),
        override(f"{side}_threads", f"CPU threads of the {side}, e.g. half of the cores each; 0: the engine's choice."),
    ]


ARGUMENTS = [
    argument(
        "cameras",
        "Camera names, e.g. front,rear. Both models hear <camera>/image_raw (not teacher/<camera>/image_raw); their "
        "masks are on teacher/<camera>/segmentation/mask and student/<camera>/segmentation/mask, what the comparison "
        "says on <camera>/comparison/summary, disagreement and side_by_side. A name that begins with / is not put "
        "below namespace.",
        "camera",
    ),
    *side_arguments("teacher"),
    *side_arguments("student"),
    override("window", "Agreement is told of so many last pairs, and of all."),
    override("output", "Folder where comparison.json and comparison.html are written at the end."),
    COMPRESSED,
    USE_SIM_TIME,
    argument("namespace", "Namespace of the cameras and, above teacher and student, of the nodes.", ""),
    DDS_PROFILE,
    LOG_LEVEL,
    argument("params_file", "Parameter file; the arguments given above override it.", str(CONFIG / "compare.yaml")),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[Node]:
    given = values(context, ARGUMENTS)
    # A launch file that includes this one may have pushed a namespace.
    base = posixpath.join("/", context.launch_configurations.get("ros_namespace", ""), given["namespace"])
    given_names = names(given["cameras"])
    cameras = [name.strip("/") for name in given_names]
    # Where the cameras are, told to nodes in whose namespace they are not.
    images = [
        (f"{camera}/{topic}", posixpath.join(base, name, topic))
        for camera, name in zip(cameras, given_names, strict=True)
        for topic in ("image_raw", "image_raw/compressed", "camera_info")
    ]
    common: dict[str, Any] = {"cameras": cameras, "use_sim_time": given["use_sim_time"] == "true"}
    common |= transport(given["compressed"])

    comparison: dict[str, Any] = {f"{side}_model": given[side] for side in SIDES if given[side]}
    if given["window"]:
        comparison["window"] = int(given["window"])
    if given["output"]:
        comparison["output"] = given["output"]

    def start(executable: str, namespace: str, overrides: dict[str, Any], **more: str) -> Node:
        return node(executable, given, common | overrides, namespace=namespace, remappings=images, **more)

    segmentation = [
        start("segmentation_node", posixpath.join(given["namespace"], side), _model(side, given)) for side in SIDES
    ]
    return [*segmentation, start("comparison_node", given["namespace"], comparison, sigterm_timeout=REPORTING)]


def _model(side: str, given: dict[str, str]) -> dict[str, Any]:
    """The parameters of one segmentation node that the arguments set."""
    overrides: dict[str, Any] = {"model": given[side]} if given[side] else {}
    for name in ("engine", "device", "precision", "input_size", "threads"):
        if text := given[f"{side}_{name}"]:
            overrides[name] = yaml.safe_load(text)  # a name, a size, or a number
    return overrides
