"""The parameters of the segmentation node, and why a value of one cannot be set."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

from rclpy.parameter import Parameter

from transkd_ros import sizes
from transkd_ros.frames import MAX_COMPRESSED_PIXELS, MAX_SIDE, SAMPLE_BITS
from transkd_ros.model.engines import ENGINES, PRECISIONS
from transkd_ros.nodes.options import ALWAYS, CONFIGURE, START, Option, cameras_refusal, topics_refusal
from transkd_ros.nodes.reliability import BEST_AVAILABLE, RELIABILITIES
from transkd_ros.region import Region
from transkd_ros.resources import DEFAULT_MODEL
from transkd_ros.segmenter import MASK_SIZES
from transkd_ros.sizes import Size

T = TypeVar("T")
RATES = (0.0, 1000.0)  # Hz
SIZES = {"input_size": ("model",), "mask_size": MASK_SIZES}
"""Parameters that have one of these names as their value, or WIDTHxHEIGHT."""
OPTIONS = (
    Option("cameras", ["camera"], "Names of the cameras; their masks are on <camera>/segmentation/mask."),
    Option(
        "image_topics",
        ["image_raw"],
        "Where the images are, below the camera's name, or absolute: one for all, or one for each camera.",
    ),
    Option(
        "roi",
        [0, 0, 0, 0],
        "Region [top, left, height, width] that the network sees, for all or one for each camera; zeros: everything.",
    ),
    Option(
        "fit",
        "stretch",
        "How frames fill the network's input: stretched, or in their aspect ratio between grey bars.",
        choices=("stretch", "letterbox"),
    ),
    Option(
        "image_transport",
        "raw",
        "Subscribe to image_raw or to image_raw/compressed.",
        choices=("raw", "compressed"),
    ),
    Option(
        "sample_bits",
        0,
        "Bits that 16-bit samples use (8, 10, 12, 14, 16); 0: as many as the brightest so far needs.",
        limits=(0, 16),
    ),
    Option(
        "max_compressed_pixels",
        MAX_COMPRESSED_PIXELS,
        "A compressed image of more pixels is refused before it is decoded.",
        ALWAYS,
        limits=(1, MAX_SIDE**2),
    ),
    Option("model", DEFAULT_MODEL, "Name of a shipped model, or path of a model bundle."),
    Option("engine", "auto", "Inference engine.", choices=("auto", *ENGINES)),
    Option("device", "auto", "auto, cpu, gpu and npu (Intel), cuda or tensorrt (NVIDIA)."),
    Option("precision", "auto", "Arithmetic of the network.", choices=PRECISIONS),
    Option("tune", True, "Time what `auto` leaves open, once per machine and model; false: take the usual order."),
    Option(
        "input_size",
        "model",
        "What the network sees: the model's own size (model), or WIDTHxHEIGHT in pixels, e.g. 512x384.",
        dynamic=True,
    ),
    Option(
        "max_batch",
        0,
        "Frames of so many cameras are inferred at once if they wait; 0: of one on a CPU, of all elsewhere.",
        limits=(0, 64),
    ),
    Option("threads", 0, "CPU threads of the engine; 0 leaves it to the engine.", limits=(0, 1024)),
    Option(
        "mask_size",
        "frame",
        "Masks as large as the frame, as the network's input (model), or WIDTHxHEIGHT in pixels, e.g. 400x200.",
        dynamic=True,
    ),
    Option("overlay", True, "Offer the overlay topic; it is computed only while someone listens."),
    Option("overlay_alpha", 0.5, "Opacity of the class colours on the overlay.", ALWAYS, limits=(0.0, 1.0)),
    Option("overlay_legend", True, "Name the classes with their colours on the overlay.", ALWAYS),
    Option("confidence", True, "Offer the confidence topic if the model has that output."),
    Option(
        "confidence_threshold",
        0.0,
        "Pixels of less confidence become the ignore id; 0: none.",
        limits=(0.0, 1.0),
    ),
    Option("lazy", False, "Segment only while someone listens to mask, overlay or confidence.", ALWAYS),
    Option("max_rate", 0.0, "Frames a second of each camera that are segmented; 0: all.", ALWAYS, limits=RATES),
    Option("max_total_rate", 0.0, "Frames a second of all cameras together; 0: no limit.", ALWAYS, limits=RATES),
    Option(
        "max_frame_age",
        0.0,
        "Drop frames older than this many seconds; 0: none.",
        ALWAYS,
        limits=(0.0, 3600.0),
    ),
    Option(
        "qos_reliability",
        BEST_AVAILABLE,
        "Of the image subscriptions; best_available is what the cameras offer.",
        choices=RELIABILITIES,
    ),
    Option(
        "qos_depth",
        1,
        "Queue depth of the image subscriptions and of the published images.",
        limits=(1, 1000),
    ),
    Option(
        "on_engine_failure",
        "reopen",
        "What to do when the engine keeps failing: open it again, or exit with code 1 so that respawn starts it anew.",
        ALWAYS,
        choices=("reopen", "exit"),
    ),
    Option("autostart", True, "Configure and activate without being asked.", START),
    Option("diagnostics_period", 1.0, "Seconds between two messages on /diagnostics.", START, limits=(0.05, 60.0)),
)


class CameraSource(NamedTuple):
    """Where the frames of a camera come from: its name, the topic of the raw images, and the region to be seen."""

    name: str
    topic: str
    region: Region | None


def camera_sources(settings: SimpleNamespace) -> list[CameraSource]:
    """One for each camera. Raises ValueError where the lists are not as long as that of the cameras."""
    count = len(settings.cameras)
    topics = _for_each(count, list(settings.image_topics), "image_topics")
    edges = [tuple(settings.roi[i : i + 4]) for i in range(0, len(settings.roi), 4)]
    regions = _for_each(count, [Region(*four) if any(four) else None for four in edges], "roi")
    return [
        CameraSource(name, topic if topic.startswith("/") else f"{name}/{topic}", region)
        for name, topic, region in zip(settings.cameras, topics, regions, strict=True)
    ]


def _for_each(count: int, values: list[T], name: str) -> list[T]:
    if len(values) not in (1, count):
        raise ValueError(f"{name} is given {len(values)} times for {count} cameras; give one for all or one for each")
    return values * count if len(values) == 1 else values


_BY_NAME = {option.name: option for option in OPTIONS}


def refusal(parameter: Parameter, configured: bool) -> str:
    """Why this value cannot be set, or "" if it can. `configured`: the node is past configure."""
    option = _BY_NAME.get(parameter.name)
    value = parameter.value
    if option is None:  # use_sim_time and others of rclpy's own
        return ""
    if configured and option.applies == CONFIGURE:
        return f"{option.name} is applied by configure: deactivate and cleanup first"
    if option.choices and value not in option.choices:
        return f"{option.name} is '{value}', not one of {', '.join(option.choices)}"
    if option.name == "sample_bits" and value not in (0, *SAMPLE_BITS):
        return f"sample_bits is {value}, not one of 0, {', '.join(map(str, SAMPLE_BITS))}"
    if option.name in SIZES:
        return _size_refusal(option.name, value)
    if option.name == "cameras":
        return cameras_refusal(value)
    if option.name == "image_topics":
        return topics_refusal(value)
    if option.name == "roi" and (not value or len(value) % 4 or min(value) < 0):
        return f"roi is {list(value)}, not [top, left, height, width] in pixels, for all cameras or one for each"
    return ""


def _size_refusal(name: str, value: Any) -> str:
    try:
        size_of(name, value)
    except ValueError as error:
        return str(error)
    return ""


def size_of(name: str, value: Any) -> str | Size:
    """What the parameter `name` of SIZES asks for: one of its names, or (height, width). Raises ValueError."""
    if value in SIZES[name]:
        return value
    with suppress(AttributeError, ValueError):  # it may be a list, as in files of earlier versions
        size = sizes.parse(value)
        if max(size) <= MAX_SIDE:
            return size
    raise ValueError(f"{name} is {value}, not one of {', '.join(SIZES[name])} or WIDTHxHEIGHT, e.g. 512x384")
