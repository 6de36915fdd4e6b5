"""Engines that run a bundle's graph behind one small protocol, and which of them can run one here.

One module per engine (`openvino_engine`, `onnxruntime_engine`, `torch_engine`); what they share is in `base`. An
engine's library is imported only when that engine is tried. How the fastest is found is in `transkd_ros.model.tuning`.
"""

from __future__ import annotations

import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from transkd_ros.model import tuning
from transkd_ros.model.bundle import EXPORTED_PROGRAM, INT8_ONNX, Bundle, BundleError
from transkd_ros.model.choices import ENGINES, PRECISIONS
from transkd_ros.model.engines.base import (
    Candidate,
    LoadOptions,
    Prediction,
    Runtime,
    RuntimeUnavailable,
    choose_device,
    choose_precisions,
)
from transkd_ros.reports.machine import machine, versions

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Candidate",
    "EngineInfo",
    "Prediction",
    "Runtime",
    "RuntimeUnavailable",
    "describe_engines",
    "open_runtime",
    "tune",
]

NO_GPU = "no NVIDIA GPU found"
_NVIDIA = ("cuda", "tensorrt")
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
    want_confidence: bool = False,
    tune: bool = True,
) -> Runtime:
    """Load `bundle` on an engine and warm it up; `.reason` says what was chosen and why.

    engine: "auto" or one of ENGINES.
    device: "auto", "cpu", "gpu" or "npu" (Intel's), "cuda", "tensorrt", in any case.
    precision: one of PRECISIONS; "int8" is the bundle's quantised graph.
    input_size: (H, W) pixels, multiples of the manifest's `size_divisor` in 32..4096; None = the manifest's.
    threads: CPU threads; 0 = the engine's own choice.
    want_confidence: what is timed and compiled now tells the confidence, too; else that is compiled when it is wanted.
    tune: what "auto" leaves open is timed here, or remembered from when it was (see `model.tuning`); False takes the
        first that works in the order in which they are fast on most machines.

    Raises ValueError for an argument outside its range, RuntimeUnavailable where this machine cannot do what
    was asked, BundleError for a bundle that breaks the graph contract.
    """
    ways = _ways(bundle, engine, device, precision, input_size, threads, want_confidence)
    if tune and len(ways.candidates) > 1:
        choice = _fastest(ways)
        return _explained(choice.runtime, str(choice))

    reasons = ways.passed_over
    for candidate in ways.candidates:
        try:
            because = "as asked" if engine != "auto" else "; ".join(reasons) or "the fastest on most machines"
            return _explained(ways.load(candidate), because)
        except RuntimeUnavailable as error:
            reasons.append(str(error))
    raise _none_runs(bundle, reasons)


def tune(
    bundle: Bundle,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    input_size: tuple[int, int] | None = None,
    threads: int = 0,
    want_confidence: bool = False,
) -> tuning.Choice:
    """Time every candidate of `open_runtime` with these arguments, however long it takes, and remember it for it.

    The runtime of the result is the caller's to close. Raises as `open_runtime` does.
    """
    return _fastest(_ways(bundle, engine, device, precision, input_size, threads, want_confidence), afresh=True)


def describe_engines() -> list[EngineInfo]:
    """Every engine with its devices on this machine, and the reason where it has none. Loads no model."""
    infos = []
    for engine in ENGINES:
        if engine == "torch" and not _has_nvidia_gpu():
            infos.append(EngineInfo(engine, "CUDA", False, NO_GPU))
            continue
        try:
            devices = _engine_module(engine).devices()
        except RuntimeUnavailable as error:
            infos.append(EngineInfo(engine, "-", False, str(error)))
            continue
        infos += [EngineInfo(engine, device, True, note) for device, note in devices.items()]
    return infos


# ---- the ways to run a bundle here ---------------------------------------------------------------
@dataclass(frozen=True)
class _Ways:
    """Candidates, likely fastest first; why others are none; and what it takes to load one and to remember its time."""

    bundle: Bundle
    candidates: list[Candidate]
    passed_over: list[str]
    size: tuple[int, int]
    threads: int
    want_confidence: bool

    def load(self, candidate: Candidate) -> Runtime:
        options = LoadOptions(candidate.device, candidate.precision, self.size, self.threads)
        return _load(candidate.engine, self.bundle, options, self.want_confidence)

    def key(self) -> dict[str, Any]:
        """All that the candidates' times depend on, JSON-ready."""
        return {
            "machine": machine(),
            "versions": versions(),
            "bundle": self.bundle.manifest.files,
            "input_size": list(self.size),
            "threads": self.threads,
            "want_confidence": self.want_confidence,
            "candidates": [list(candidate) for candidate in self.candidates],
        }


def _ways(
    bundle: Bundle,
    engine: str,
    device: str,
    precision: str,
    input_size: tuple[int, int] | None,
    threads: int,
    want_confidence: bool,
) -> _Ways:
    size = bundle.manifest.input_size if input_size is None else input_size
    _check_arguments(bundle, engine, precision, size, threads)
    if precision == "int8" and bundle.int8_onnx is None:
        raise RuntimeUnavailable(
            f"{bundle.path} has no {INT8_ONNX}, which int8 needs; "
            f"add it with `python training/export.py --bundle {bundle.path} --int8`"
        )
    if device.lower() in _NVIDIA and not _has_nvidia_gpu():
        raise RuntimeUnavailable(NO_GPU)
    candidates: list[Candidate] = []
    reasons: list[str] = []
    for name in ENGINES if engine == "auto" else (engine,):
        try:
            if engine == "auto" and name == "torch" and not _has_nvidia_gpu():
                raise RuntimeUnavailable(NO_GPU)  # known without importing torch, which takes seconds
            candidates += _candidates(bundle, name, device, precision)
        except RuntimeUnavailable as error:
            reasons.append(str(error))
    if not candidates:
        raise _none_runs(bundle, reasons)
    candidates.sort(key=_rank)
    return _Ways(bundle, candidates, reasons, size, threads, want_confidence)


def _candidates(bundle: Bundle, engine: str, device: str, precision: str) -> list[Candidate]:
    """The devices and precisions of one engine that were asked for. Raises RuntimeUnavailable where it has none."""
    if engine == "torch" and bundle.exported_program is None:
        raise RuntimeUnavailable(
            f"{bundle.path} has no {EXPORTED_PROGRAM}, which torch needs; "
            f"add it with `python training/export.py --bundle {bundle.path} --torch`"
        )
    module = _engine_module(engine)
    devices = [name for name in module.devices() if name.lower() not in _NVIDIA or _has_nvidia_gpu()]
    if device != "auto":
        devices = [choose_device(engine, device, devices)]
    elif engine == "torch":
        devices = [name for name in devices if name != "CPU"]  # its CPU is for checks only
        if not devices:
            raise RuntimeUnavailable(f"{engine} finds no CUDA GPU; ask for device cpu to run it on the CPU")
    found: list[Candidate] = []
    refused = ""
    for name in devices:
        available = [kind for kind in module.precisions(name) if kind != "int8" or bundle.int8_onnx]
        try:
            found += [Candidate(engine, name, kind) for kind in choose_precisions(engine, name, precision, available)]
        except RuntimeUnavailable as error:
            refused = refused or str(error)
    if not found:
        raise RuntimeUnavailable(refused)
    return found


def _rank(candidate: Candidate) -> int:
    """How fast a candidate is on most machines, fastest first."""
    by_device = {"TensorRT": 1, "CUDA": 2 if candidate.engine == "onnxruntime" else 0}
    if candidate.device in by_device:
        return by_device[candidate.device]
    return 3 if candidate.engine == "openvino" else 4


def _fastest(ways: _Ways, afresh: bool = False) -> tuning.Choice:
    try:
        return tuning.fastest(ways.candidates, ways.load, ways.key(), ways.want_confidence, afresh)
    except RuntimeUnavailable as error:
        raise _none_runs(ways.bundle, [*ways.passed_over, str(error)]) from error


def _none_runs(bundle: Bundle, reasons: list[str]) -> RuntimeUnavailable:
    different = list(dict.fromkeys(reasons))
    if len(different) == 1:
        return RuntimeUnavailable(different[0])
    return RuntimeUnavailable(f"no engine runs {bundle.path}: {'; '.join(different)}")


def _explained(runtime: Runtime, because: str) -> Runtime:
    runtime.reason = f"{runtime.engine} on {runtime.device} ({runtime.precision}): {because}"
    if runtime.fallen_back:
        runtime.reason += f"; {runtime.fallen_back}"
    return runtime


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


def _load(engine: str, bundle: Bundle, options: LoadOptions, want_confidence: bool) -> Runtime:
    """Load and warm up; whatever an engine's library throws becomes one line."""
    module = _engine_module(engine)
    try:
        runtime: Runtime = module.load(bundle, options)
        # The first inference allocates and compiles: better now than on the first frame.
        prediction = runtime.infer(np.zeros((*options.input_size, 3), np.uint8), want_confidence)
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
