"""Checkpoint to bundle: `python training/export.py --checkpoint runs/NAME/…/best.ckpt --output models/NAME`.

The trained network is folded (`training.deploy`), exported to ONNX with free image size, and checked on real frames:
the exported graph must give the class of the trained network on 99.9 % of the pixels, or nothing is written. With
labelled frames the bundle itself is measured, as a vehicle will run it, and the numbers go into its manifest.
"""

from __future__ import annotations

import argparse
import datetime
import io
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from training.data.camvid import find_camvid
from training.deploy import DeployedNetwork, fold
from training.model_card import model_card
from training.networks import SIZE_DIVISOR, count_macs, count_parameters
from training.trained import Trained, TrainedError, read_checkpoint
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError, list_frames, read_image, read_label
from transkd_ros.evaluate.metrics import ConfusionMatrix
from transkd_ros.frames import Frame
from transkd_ros.model.bundle import EXPORTED_PROGRAM, MODEL_ONNX, WEIGHTS, Bundle, BundleError, write_bundle
from transkd_ros.model.engines import RuntimeUnavailable, open_runtime
from transkd_ros.scenes import Drive
from transkd_ros.segmenter import Segmenter

MINIMUM_PARITY = 0.999
PARITY_FRAMES = 24
LICENCE = "Apache-2.0"
Labelled = tuple[Frame, np.ndarray | None]


class ExportError(Exception):
    """The bundle does not do what the network did."""


def export_onnx(deployed: DeployedNetwork, size: tuple[int, int]) -> tuple[bytes, torch.export.ExportedProgram]:
    """The graph as ONNX and as a torch.export program, both with free height and width."""
    image = torch.zeros(1, *size, 3, dtype=torch.uint8)
    height, width = (torch.export.Dim(name, min=1, max=4096 // SIZE_DIVISOR) for name in ("h", "w"))
    shapes = {"image": {1: SIZE_DIVISOR * height, 2: SIZE_DIVISOR * width}}
    program = torch.export.export(deployed, (image,), dynamic_shapes=shapes)
    onnx = torch.onnx.export(
        program, (image,), dynamo=True, verbose=False, input_names=["image"], output_names=["mask", "confidence"]
    )
    assert onnx is not None
    return onnx.model_proto.SerializeToString(), program


def frames_of(images: Path | None, labels: Path | None) -> list[Labelled]:
    """The frames of a folder, else of CamVid val where it is found, else rendered ones."""
    if images is None and (root := find_camvid()) is not None:
        images, labels = root / "val" / "images", root / "val" / "labels"
    if images is None:
        print("no images given and no CamVid found: checking on rendered scenes, measuring nothing")
        return [(Frame(Drive(seed).frame(0)[0], "rgb8"), None) for seed in range(PARITY_FRAMES)]
    return [
        (frame := Frame(read_image(path.image), "bgr8"), read_label(path.label, frame.size) if path.label else None)
        for path in list_frames(images, labels)
    ]


def check_parity(trained: Trained, bundle: Bundle, frames: list[Labelled]) -> float:
    """The share of pixels, 0–1, on which the bundle's fp32 graph gives the trained network's class; ExportError below
    MINIMUM_PARITY."""
    runtime = open_runtime(bundle, "onnxruntime", "cpu", "fp32", want_confidence=False)
    reference = DeployedNetwork(trained.network, trained.spec)  # neither folded nor exported
    equal = []
    for frame, _ in frames[:: max(1, len(frames) // PARITY_FRAMES)]:
        image = frame.rgb(bundle.manifest.input_size)
        with torch.inference_mode():
            expected = reference(torch.from_numpy(image)[None])[0].squeeze(0).numpy()
        equal.append((runtime.infer(image).mask == expected).mean())
    parity = float(np.mean(equal))
    if parity < MINIMUM_PARITY:
        raise ExportError(f"the exported graph agrees on {parity:.4%} of the pixels, {MINIMUM_PARITY:.1%} are required")
    return parity


def measure(bundle: Bundle, frames: list[Labelled]) -> tuple[dict[str, Any], dict[str, float]]:
    """Accuracy of the bundle on the labelled frames, and its arg-max agreement of each precision with fp32.

    Run by OpenVINO as on a vehicle: the frame resized to the model's input, the mask enlarged to the frame. Returns
    ({precision: {"miou", "pixel_accuracy", "iou": {class: …}}}, {precision: agreement}), all 0–1.
    """
    exact = _masks(bundle, "fp32", frames)
    accuracy = _accuracy(bundle, exact, frames)
    agreement: dict[str, float] = {}
    try:
        reduced = _masks(bundle, "bf16", frames)
    except RuntimeUnavailable as error:
        print(f"bf16 not measured: {error}")
        return {"fp32": accuracy} if accuracy else {}, agreement
    agreement["bf16"] = float(np.mean([(a == b).mean() for a, b in zip(exact, reduced, strict=True)]))
    metrics = {"fp32": accuracy, "bf16": _accuracy(bundle, reduced, frames)}
    return {precision: values for precision, values in metrics.items() if values}, agreement


def _masks(bundle: Bundle, precision: str, frames: list[Labelled]) -> list[np.ndarray]:
    segmenter = Segmenter(open_runtime(bundle, "openvino", "cpu", precision, want_confidence=False))
    return [segmenter(frame).mask for frame, _ in frames]


def _accuracy(bundle: Bundle, masks: list[np.ndarray], frames: list[Labelled]) -> dict[str, Any]:
    table = bundle.manifest.labels
    confusion = ConfusionMatrix(len(table.names), table.ignore_id)
    for mask, (_, label) in zip(masks, frames, strict=True):
        if label is not None:
            confusion.update(mask, label)
    if not confusion.matrix.any():
        return {}
    iou = {name: round(float(value), 4) for name, value in zip(table.names, confusion.iou(), strict=True)}
    accuracy = {"miou": round(confusion.miou(), 4), "pixel_accuracy": round(confusion.pixel_accuracy(), 4)}
    return accuracy | {"frames": len(masks), "iou": {name: value for name, value in iou.items() if value == value}}


def export(arguments: argparse.Namespace) -> None:
    trained = read_checkpoint(arguments.checkpoint)
    frames = frames_of(arguments.images, arguments.labels)
    size = arguments.input_size
    folded = fold(trained.network)
    onnx, program = export_onnx(DeployedNetwork(folded, trained.spec), size)
    files: dict[str, bytes | Path] = {MODEL_ONNX: onnx, WEIGHTS: save_safetensors(trained.network.state_dict())}
    if arguments.torch:
        torch.export.save(program, archive := io.BytesIO())
        files[EXPORTED_PROGRAM] = archive.getvalue()
    fields: dict[str, Any] = {
        "name": arguments.output.name,
        "role": arguments.role,
        "architecture": trained.spec.to_json(),
        "labels": trained.labels,
        "input_size": size,
        "size_divisor": SIZE_DIVISOR,
        "parameters": count_parameters(trained.network),
        "macs": count_macs(folded, size),
        "outputs": ("mask", "confidence"),
        "recipe": arguments.recipe,
        "seed": trained.settings.get("seed"),
        "metrics": {},
        "agreement": {},
        "licence": LICENCE,
        "data_note": arguments.data_note,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    with tempfile.TemporaryDirectory() as folder:  # measured before it is put where others look
        candidate = write_bundle(Path(folder) / "candidate", fields, files)
        parity = check_parity(trained, candidate, frames)
        print(f"parity with the trained network: {parity:.4%} of the pixels")
        metrics, agreement = measure(candidate, frames)
    fields["agreement"] = {"fp32 export to trained network": round(parity, 6), **agreement}
    if metrics:
        fields["metrics"] = {arguments.split: metrics}
    files["README.md"] = model_card(fields).encode()
    bundle = write_bundle(arguments.output, fields, files)
    for precision, values in metrics.items():
        print(f"{arguments.split} mIoU {values['miou']:.2%} ({precision})")
    print(f"wrote {bundle.path}: {fields['parameters'] / 1e6:.2f} M parameters, {fields['macs'] / 1e9:.2f} GMACs")


def parse_arguments(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a trained checkpoint as a model bundle.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of training/distill.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle; its name is the model's")
    parser.add_argument("--input-size", type=cli.size, default=(384, 512), metavar="WIDTHxHEIGHT",
                        help="size that frames are resized to by default, multiples of 32 (512x384)")
    parser.add_argument("--images", type=Path, help="folder of real frames to check on (CamVid val where it is found)")
    parser.add_argument("--labels", type=Path, help="folder of their label masks, to measure the bundle on")
    parser.add_argument("--split", default="camvid_val", help="what to call these frames in the manifest (%(default)s)")
    parser.add_argument("--role", choices=("student", "teacher"), default="student")
    parser.add_argument("--recipe", default="", help="recipe that the checkpoint came from, for the manifest")
    parser.add_argument("--data-note", default="", help="what the data allows, for the manifest and the model card")
    parser.add_argument("--torch", action="store_true", help="add model.pt2, for the torch engine on CUDA")
    arguments = parser.parse_args(args)
    if any(side % SIZE_DIVISOR for side in arguments.input_size):
        parser.error(f"--input-size must be multiples of {SIZE_DIVISOR}")
    return arguments


if __name__ == "__main__":
    arguments = parse_arguments()
    cli.run(lambda: export(arguments), ExportError, TrainedError, BundleError, ImageFolderError, RuntimeUnavailable)
