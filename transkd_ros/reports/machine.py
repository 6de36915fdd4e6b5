"""What numbers were measured on: the machine and the versions of what they depend on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "transkd_ros", "numpy", "openvino", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch", "rclpy", "rosbags",
)  # fmt: skip
_NVIDIA = Path("/proc/driver/nvidia")


def machine() -> dict[str, Any]:
    """What the numbers were measured on; of NVIDIA's GPUs their names and the driver's version, where there are any."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": next(names, platform.processor()), "cpus": usable, "system": platform.platform()}
    return found | ({"gpus": gpus} if (gpus := _gpus()) else {})


def _gpus() -> list[str]:
    """As the driver's files tell; none without them."""
    try:
        told = [path.read_text("utf-8", "replace") for path in sorted(_NVIDIA.glob("gpus/*/information"))]
        driver = (_NVIDIA / "version").read_text("utf-8", "replace").splitlines()[0]
    except (OSError, IndexError):
        return []
    models = [line.partition(":")[2].strip() for text in told for line in text.splitlines() if line.startswith("Model")]
    return [*models, driver.partition(":")[2].strip()]


def versions() -> dict[str, str]:
    """Of Python and of the packages that the numbers depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
