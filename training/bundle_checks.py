"""What a bundle has to show before it is written: the trained network's classes, its accuracy, and the gate of int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from training.data.samples import IGNORE
from training.deploy import DeployedNetwork
from training.export_frames import Frames
from training.trained import Trained
from transkd_ros import cli
from transkd_ros.evaluate.metrics import ConfusionMatrix
from transkd_ros.frames import Frame
from transkd_ros.model.bundle import Bundle
from transkd_ros.model.engines import RuntimeUnavailable, open_runtime
from transkd_ros.segmenter import Segmenter

MINIMUM_PARITY = 0.999
PARITY_FRAMES = 24
MOST_LOST = 0.005
"""The gate of int8: how far its mIoU may lie below that of fp32."""
LEAST_EQUAL = 0.985
"""The gate where there are no labels: the share of pixels with fp32's class. The shipped bundles have 0.985 to 0.993 of
them and lose 0.4 points at most **[ours]**."""


class ExportError(Exception):
    """The bundle does not do what the network did."""


def check_parity(trained: Trained, bundle: Bundle, frames: Frames) -> float:
    """The share of pixels, 0–1, on which the bundle's fp32 graph gives the trained network's class; ExportError below
    MINIMUM_PARITY."""
    runtime = open_runtime(bundle, "onnxruntime", "cpu", "fp32")
    reference = DeployedNetwork(trained.network, trained.spec)  # neither folded nor exported
    equal = []
    for pixels in frames.some(PARITY_FRAMES):
        image = Frame(pixels, "rgb8").rgb(bundle.manifest.input_size)
        with torch.inference_mode():
            expected = reference(torch.from_numpy(image)[None])[0].squeeze(0).numpy()
        equal.append((runtime.infer(image).mask == expected).mean())
    parity = float(np.mean(equal))
    if parity < MINIMUM_PARITY:
        raise ExportError(f"the exported graph agrees on {parity:.4%} of the pixels, {MINIMUM_PARITY:.1%} are required")
    return parity


def measure(
    bundle: Bundle, frames: Frames, size: tuple[int, int] | None = None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Accuracy of the bundle on labelled frames, and each precision's arg-max agreement with fp32.

    Run by OpenVINO as on a vehicle: the frame resized to the network's input, which is `size` (H, W) or the model's
    own, the mask enlarged to the frame. What the CPU lacks is left out with a line; ExportError where int8 does not
    run. Returns ({precision: {"miou",
    "pixel_accuracy", "frames", "iou": {class: …}}}, {precision: agreement}), all 0–1; no accuracy where the frames have
    no labels.
    """
    segmenters = {}
    for precision in ("fp32", "bf16", *(["int8"] if bundle.int8_onnx else [])):
        try:
            runtime = open_runtime(bundle, "openvino", "cpu", precision, size)
            segmenters[precision] = Segmenter(runtime)
        except RuntimeUnavailable as error:
            if precision == "int8":
                raise ExportError(f"the graph in int8 does not run, export without --int8: {error}") from error
            print(f"{precision} not measured: {error}")
    table = bundle.manifest.labels
    confusions = {precision: ConfusionMatrix(len(table.names), IGNORE) for precision in segmenters}
    equal: dict[str, list[float]] = {precision: [] for precision in segmenters}
    with cli.progress() as progress:
        for index in progress.track(range(len(frames.samples)), description=f"measuring on {frames.name}"):
            pixels, label = frames.samples[index]
            masks = {precision: segmenter(Frame(pixels, "rgb8")).mask for precision, segmenter in segmenters.items()}
            for precision, mask in masks.items():
                confusions[precision].update(mask, label)
                equal[precision].append(float((mask == masks["fp32"]).mean()))
    agreement = {precision: float(np.mean(shares)) for precision, shares in equal.items() if precision != "fp32"}
    if not (frames.labelled and confusions["fp32"].matrix.any()):
        return {}, agreement
    count = len(frames.samples)
    return {name: _accuracy(confusion, table.names, count) for name, confusion in confusions.items()}, agreement


def _accuracy(confusion: ConfusionMatrix, names: tuple[str, ...], frames: int) -> dict[str, Any]:
    iou = {name: round(float(value), 4) for name, value in zip(names, confusion.iou(), strict=True)}
    accuracy = {"miou": round(confusion.miou(), 4), "pixel_accuracy": round(confusion.pixel_accuracy(), 4)}
    return accuracy | {"frames": frames, "iou": {name: value for name, value in iou.items() if value == value}}


def fault_of_int8(metrics: dict[str, Any], agreement: dict[str, float]) -> str:
    """What is wrong with int8 by what `measure` returned, or "": too little mIoU, or, without labels, agreement."""
    if metrics and (lost := metrics["fp32"]["miou"] - metrics["int8"]["miou"]) > MOST_LOST:
        return f"loses {100 * lost:.1f} points of mIoU, {100 * MOST_LOST:.1f} are allowed"
    if not metrics and agreement["int8"] < LEAST_EQUAL:
        return f"gives {agreement['int8']:.1%} of the pixels the class of fp32, {LEAST_EQUAL:.1%} are required"
    return ""
