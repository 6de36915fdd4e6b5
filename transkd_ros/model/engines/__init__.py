"""Engines that run a bundle's graph behind one small protocol, and the choice of the fastest one here.

One module per engine (`openvino_engine`, `onnxruntime_engine`, `torch_engine`); what they share is in `base`.
An engine's library is imported only when that engine is tried.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from transkd_ros.model.bundle import EXPORTED_PROGRAM, Bundle, BundleError
from transkd_ros.model.choices import ENGINES, PRECISIONS
from transkd_ros.model.engines.base import LoadOptions, Prediction, Runtime, RuntimeUnavailable

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "EngineInfo",
    "Prediction",
    "Runtime",
    "RuntimeUnavailable",
    "describe_engines",
    "open_runtime",
]

_SPEED_ORDER = (  # fastest first
    ("torch", "CUDA"),
    ("onnxruntime", "TensorRT"),
    ("onnxruntime", "CUDA"),
    ("openvino", "auto"),
    ("onnxruntime", "CPU"),
)
_NVIDIA_DEVICES = ("CUDA", "TensorRT")
_SIZE_RANGE = (32, 4096)  # pixels


class EngineInfo(NamedTuple):
    """One engine on one device: whether this machine can use it, and a note: what it is, or what lacks."""

    engine: str
    device: str
    usable: bool
    note: str


def open_runtime(
    bundle: Bundle,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    input_size: tuple[int, int] | None = None,
    threads: int = 0,
    want_confidence: bool = True,
) -> Runtime:
    """Load `bundle` on an engine and warm it up; `.reason` says what was chosen and why.

    engine: "auto" (the fastest that works here) or one of ENGINES.
    device: "auto", "cpu", "gpu" or "npu" (Intel's), "cuda", "tensorrt", in any case.
    precision: one of PRECISIONS; "auto" is what the device computes fastest.
    input_size: (H, W) pixels, multiples of the manifest's `size_divisor` in 32..4096; None = the manifest's.
    threads: CPU threads; 0 = the engine's own choice.
    want_confidence: False leaves the confidence map out of the graph.

    Raises ValueError for an argument outside its range, RuntimeUnavailable where this machine cannot do what
    was asked, BundleError for a bundle that breaks the graph contract.
    """
    size = bundle.manifest.input_size if input_size is None else input_size
    _check_arguments(bundle, engine, precision, size, threads)
    outputs = bundle.manifest.outputs if want_confidence else ("mask",)
    options = LoadOptions(device, precision, size, threads, outputs)
    if engine != "auto":
        return _load(engine, bundle, options, because="as asked")

    passed_over: dict[str, None] = {}  # reasons, each once, in order
    for candidate, candidate_device in _candidates(device):
        try:
            if candidate_device in _NVIDIA_DEVICES and not _has_nvidia_gpu():
                raise RuntimeUnavailable(
                    "no NVIDIA GPU found"
                )  # known without importing torch, which takes seconds
            because = "; ".join(passed_over) or "the fastest here"
            return _load(candidate, bundle, options._replace(device=candidate_device), because)
        except RuntimeUnavailable as error:
            passed_over[str(error)] = None
    raise RuntimeUnavailable(f"no engine runs {bundle.path}: {'; '.join(passed_over)}")


def describe_engines() -> list[EngineInfo]:
    """Every engine with its devices on this machine, and the reason where it has none. Loads no model."""
    infos = []
    for engine in ENGINES:
        if engine == "torch" and not _has_nvidia_gpu():
            infos.append(EngineInfo(engine, "CUDA", False, "no NVIDIA GPU found"))
            continue
        try:
            devices = _engine_module(engine).devices()
        except RuntimeUnavailable as error:
            infos.append(EngineInfo(engine, "-", False, str(error)))
            continue
        infos += [EngineInfo(engine, device, True, note) for device, note in devices.items()]
    return infos


def _check_arguments(
    bundle: Bundle, engine: str, precision: str, size: tuple[int, int], threads: int
) -> None:
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; choose auto, {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose {', '.join(PRECISIONS)}")
    divisor, (low, high) = bundle.manifest.size_divisor, _SIZE_RANGE
    if len(size) != 2 or any(side % divisor or not low <= side <= high for side in size):
        raise ValueError(
            f"input size {tuple(size)} (height, width) must be multiples of {divisor} within {low}..{high}"
        )
    if threads < 0:
        raise ValueError(f"threads is {threads}; give 0 for the engine's own choice, or a positive number")


def _candidates(device: str) -> list[tuple[str, str]]:
    """The engines and devices that `device` allows, fastest first."""
    if device == "auto":
        return list(_SPEED_ORDER)
    named = [(engine, name) for engine, name in _SPEED_ORDER if name.lower() == device.lower()]
    is_nvidia = device.lower() in (name.lower() for name in _NVIDIA_DEVICES)
    return named if is_nvidia else [("openvino", device), *named]


def _load(engine: str, bundle: Bundle, options: LoadOptions, because: str) -> Runtime:
    """Load and warm up; whatever an engine's library throws becomes one line."""
    if engine == "torch" and bundle.exported_program is None:
        raise RuntimeUnavailable(
            f"{bundle.path} has no {EXPORTED_PROGRAM}, which torch needs; "
            "export the model with `python training/export.py --torch`"
        )
    module = _engine_module(engine)
    try:
        runtime: Runtime = module.load(bundle, options)
        # The first inference allocates and compiles: better now than on the first frame.
        prediction = runtime.infer(np.zeros((*options.input_size, 3), np.uint8))
    except (RuntimeUnavailable, BundleError):
        raise
    except Exception as error:  # each library has exceptions of its own
        text = " ".join(str(error).split())[:300]
        raise RuntimeUnavailable(f"{engine} cannot run the model in {bundle.path}: {text}") from error
    for name, output in prediction._asdict().items():
        if output is not None and (output.shape != options.input_size or output.dtype != np.uint8):
            raise BundleError(
                f"{bundle.path}: output {name} is {output.dtype} {output.shape}, "
                f"not uint8 {options.input_size}; export the model again"
            )
    runtime.reason = f"{engine} on {runtime.device} ({runtime.precision}): {because}"
    return runtime


def _engine_module(engine: str) -> ModuleType:
    try:
        return importlib.import_module(f"transkd_ros.model.engines.{engine}_engine")
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(f"{error.name} not installed") from error
    except (ImportError, OSError) as error:  # a library it needs is missing or of another version
        raise RuntimeUnavailable(
            f"{engine} is installed but does not start: {' '.join(str(error).split())[:200]}"
        ) from error


def _has_nvidia_gpu() -> bool:
    """Whether a driver is there, found without a library: in /proc, or as the nvgpu module on Jetsons."""
    return (
        Path("/proc/driver/nvidia/version").exists()
        or Path("/sys/module/nvgpu").exists()
        or shutil.which("nvidia-smi") is not None
    )
