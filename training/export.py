"""Checkpoint to bundle: `python training/export.py --checkpoint runs/NAME/checkpoints/best.ckpt --output models/NAME`.

The trained network is folded (`training.deploy`), exported to ONNX with free image size, and checked on real frames:
the exported graph must give the class of the trained network on 99.9 % of the pixels, or nothing is written. With
labelled frames the bundle itself is measured, as a vehicle will run it, and the numbers go into its manifest. `--int8`
adds the graph in int8 (`training.quantise`), which must come within half a point of mIoU or, without labels, give
98.5 % of the pixels fp32's class.

Size, data and recipe are those of the run that the checkpoint lies in; options override them. `--bundle models/NAME`
takes the weights of a bundle instead, and exports and measures that anew.
"""

from __future__ import annotations

import argparse
import datetime
import io
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`
    from training.requirements import require

    require()

import torch
from safetensors.torch import save as save_safetensors

from training.bundle_checks import ExportError, check_parity, fault_of_int8, measure
from training.deploy import DeployedNetwork, fold
from training.export_frames import Frames, Run, calibration_images, checked_frames
from training.model_card import model_card
from training.networks import SIZE_DIVISOR, count_macs, count_parameters
from training.quantise import QuantisationError, costs, quantise
from training.trained import Trained, TrainedError, read_bundle, read_checkpoint
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.bags.storage import BagError
from transkd_ros.frames import Frame, FrameError
from transkd_ros.model.bundle import (
    EXPORTED_PROGRAM,
    INT8_ONNX,
    MANIFEST,
    MODEL_ONNX,
    WEIGHTS,
    BundleError,
    load_bundle,
    write_bundle,
)
from transkd_ros.model.engines import RuntimeUnavailable

INPUT_SIZE = (384, 512)
"""(H, W) where neither a run nor an option says another."""
PROBED = 8
"""Frames on which the parts of a graph are told apart that lose too much in int8."""
UNSTATED = "not stated"
KNOWN = ("role", "recipe", "seed", "licence", "data_note", "teaching")
"""The fields of a manifest that stay when its bundle is exported anew."""


@dataclass(frozen=True)
class Source:
    """What is exported: a network, the run it is from where there is one, and what is known of it already."""

    trained: Trained
    run: Run | None
    input_size: tuple[int, int]
    known: dict[str, Any]  # fields of the manifest


def source_of(arguments: argparse.Namespace) -> Source:
    """From the bundle or the run, and over it the options. Raises OSError, TrainedError, BundleError, CommandError for
    what cannot be read."""
    run = None
    if arguments.bundle:
        manifest, trained = load_bundle(arguments.bundle).manifest, read_bundle(arguments.bundle)
        known = {name: getattr(manifest, name) for name in KNOWN}
        size = manifest.input_size
    else:
        trained, run = read_checkpoint(arguments.checkpoint), Run.of(arguments.checkpoint)
        known = {"role": "student", "recipe": "", "seed": trained.settings.get("seed")}
        known |= {"licence": UNSTATED, "data_note": ""}
        size = INPUT_SIZE
        if run:
            size = run.input_size
            known |= {"recipe": str(run.path), "data_note": run.describe_data(), "teaching": run.teaching()}
    options = {name: value for name in known if (value := getattr(arguments, name, None)) is not None}
    return Source(trained, run, arguments.input_size or size, known | options)


def export_onnx(deployed: DeployedNetwork, size: tuple[int, int]) -> tuple[bytes, torch.export.ExportedProgram]:
    """The graph as ONNX and as a torch.export program, both with free batch, height and width."""
    image = torch.zeros(2, *size, 3, dtype=torch.uint8)  # of one, torch would make the only size of a batch
    height, width = (torch.export.Dim(name, min=1, max=4096 // SIZE_DIVISOR) for name in ("h", "w"))
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=64), 1: SIZE_DIVISOR * height, 2: SIZE_DIVISOR * width}}
    program = torch.export.export(deployed, (image,), dynamic_shapes=shapes)
    onnx = torch.onnx.export(
        program, (image,), dynamo=True, verbose=False, input_names=["image"], output_names=["mask", "confidence"]
    )
    assert onnx is not None
    return onnx.model_proto.SerializeToString(), program


def int8_graph(checkpoint: Path, trained: Trained, size: tuple[int, int]) -> bytes:
    """The float graph of a run that fine-tuned `trained` for int8. Raises TrainedError for one of another network."""
    tuned = read_checkpoint(checkpoint, int8=True)
    if (tuned.spec, tuned.labels.names) != (trained.spec, trained.labels.names):
        raise TrainedError(f"--int8-checkpoint {checkpoint} is a {tuned.spec} of other classes or another network")
    return export_onnx(DeployedNetwork(tuned.network, tuned.spec), size)[0]


def export(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, arguments.overwrite)
    source = source_of(arguments)
    trained, size = source.trained, source.input_size
    frames = checked_frames(source.run, arguments.images, arguments.labels, arguments.split, trained.labels)
    if arguments.int8 and not frames.real:
        raise cli.CommandError("--int8 is checked on real frames, and there are none: give --images and --labels")

    print(f"exporting {trained.spec} for {size[1]}x{size[0]}", flush=True)
    folded = fold(trained.network)
    graph, program = export_onnx(DeployedNetwork(folded, trained.spec), size)
    files: dict[str, bytes | Path] = {MODEL_ONNX: graph, WEIGHTS: save_safetensors(trained.network.state_dict())}
    if arguments.int8:
        images = calibration_images(source.run, arguments.calibration, size, arguments.int8_frames, trained.labels)
        print(f"quantising, on {len(images)} frames", flush=True)
        tuned = int8_graph(arguments.int8_checkpoint, trained, size) if arguments.int8_checkpoint else None
        files[INT8_ONNX] = quantise(tuned or graph, images, tuned=tuned is not None)
    if arguments.torch:
        torch.export.save(program, archive := io.BytesIO())
        files[EXPORTED_PROGRAM] = archive.getvalue()
    fields: dict[str, Any] = {
        "name": arguments.output.resolve().name,
        "architecture": trained.spec.to_json(),
        "labels": trained.labels,
        "input_size": size,
        "size_divisor": SIZE_DIVISOR,
        "parameters": count_parameters(trained.network),
        "macs": count_macs(folded, size),
        "outputs": ("mask", "confidence"),
        "metrics": {},
        "agreement": {},
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **source.known,
    }
    check_and_measure(trained, fields, files, frames)
    files["README.md"] = model_card(fields).encode()
    bundle = write_bundle(arguments.output, fields, files)
    print(f"wrote {bundle.path}: {fields['parameters'] / 1e6:.2f} M parameters, {fields['macs'] / 1e9:.2f} GMACs")


def check_output(output: Path, overwrite: bool) -> None:
    """Raise CommandError for what must not be replaced, before anything is computed."""
    if output.exists() and not (output / MANIFEST).is_file():
        raise cli.CommandError(f"{output} exists and is not a model bundle; remove it or choose another name")
    if output.exists() and not overwrite:
        raise cli.CommandError(f"{output} holds a model bundle; give --overwrite to replace it, or another --output")


def check_and_measure(
    trained: Trained, fields: dict[str, Any], files: dict[str, bytes | Path], frames: Frames
) -> None:
    """Fill in the manifest's `metrics` and `agreement`, in a bundle that nobody else sees yet.

    Raises ExportError for a graph that disagrees with the network, or loses too much in int8.
    """
    with tempfile.TemporaryDirectory() as folder:
        candidate = write_bundle(Path(folder) / "candidate", fields, files)
        print("comparing with the trained network", flush=True)
        parity = check_parity(trained, candidate, frames)
        print(f"parity with the trained network: {parity:.4%} of the pixels")
        metrics, agreement = measure(candidate, frames)
    fields["agreement"] = {"fp32 export to trained network": round(parity, 6), **agreement}
    if metrics:
        fields["metrics"] = {frames.name: metrics}
    for precision, values in metrics.items():
        same = f", {agreement[precision]:.2%} of the pixels as in fp32" if precision in agreement else ""
        print(f"{frames.name} mIoU {values['miou']:.2%} ({precision}{same})")
    if INT8_ONNX in files and not metrics:
        print(f"{frames.name} has no labels: int8 gives {agreement['int8']:.2%} of the pixels the class of fp32")
    if INT8_ONNX in files and (fault := fault_of_int8(metrics, agreement)):
        raise ExportError(
            f"int8 {fault}, and nothing is written; left in float, these parts would give pixels their class back: "
            f"{_dearest(fields, files, frames)}. Export without --int8, or "
            "fine-tune the network for it first (model.int8 in its recipe)"
        )


def _dearest(fields: dict[str, Any], files: dict[str, bytes | Path], frames: Frames) -> str:
    """The five parts of the network that lose most in int8, with the share of the pixels that each costs."""
    graph, quantised = files[MODEL_ONNX], files[INT8_ONNX]
    assert isinstance(graph, bytes) and isinstance(quantised, bytes)
    images = [Frame(image, "rgb8").rgb(fields["input_size"]) for image in frames.some(PROBED)]
    return ", ".join(f"{part} {share:.2%}" for part, share in list(costs(graph, quantised, images).items())[:5])


def parse_arguments(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a trained checkpoint as a model bundle.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="checkpoint of training/distill.py, in the folder of its run")
    source.add_argument("--bundle", type=Path, help="bundle whose weights are exported anew")
    parser.add_argument("--output", type=Path, help="folder of the bundle; its name is the model's (default: --bundle)")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--input-size", type=cli.size, metavar="WIDTHxHEIGHT",
                        help="size that frames are resized to by default, multiples of 32 (the run's val_size)")
    parser.add_argument("--images", type=Path, help="folder of real frames to check on (those the run validated on)")
    parser.add_argument("--labels", type=Path, help="folder of their label masks, to measure the bundle on")
    parser.add_argument("--split", help="what to call these frames in the manifest (the data's name, as camvid_val)")
    parser.add_argument("--int8", action="store_true", help="add the graph in int8, if it is as good as fp32")
    parser.add_argument("--calibration", type=Path, metavar="FOLDER|BAG",
                        help="frames that the ranges of int8 are taken from (those the run trained on)")
    parser.add_argument("--int8-frames", type=cli.positive_int, default=300, help="how many of them (%(default)s)")
    parser.add_argument("--int8-checkpoint", type=Path, metavar="CHECKPOINT",
                        help="of a run that fine-tuned the network for int8 (model.int8): the graph in int8 is its")
    parser.add_argument("--torch", action="store_true", help="add model.pt2, for the torch engine on CUDA")
    about = parser.add_argument_group("for the manifest and the model card")
    about.add_argument("--role", choices=("student", "teacher"), help="student by default")
    about.add_argument("--recipe", help="what the network was trained by (the run's config.yaml)")
    about.add_argument("--licence", help=f'of the weights ("{UNSTATED}" by default)')
    about.add_argument("--data-note", help="what the data are and allow (the run's, by name)")
    arguments = parser.parse_args(args)
    if arguments.labels and not arguments.images:
        parser.error("--labels needs --images")
    if arguments.calibration and not arguments.int8:
        parser.error("--calibration needs --int8")
    if arguments.int8_checkpoint and not arguments.int8:
        parser.error("--int8-checkpoint needs --int8")
    if arguments.output is None and arguments.bundle is None:
        parser.error("--output is required with --checkpoint")
    arguments.output = arguments.output or arguments.bundle
    if any(side % SIZE_DIVISOR for side in arguments.input_size or ()):
        parser.error(f"--input-size must be multiples of {SIZE_DIVISOR}")
    return arguments


if __name__ == "__main__":
    arguments = parse_arguments()
    cli.run(
        lambda: export(arguments),
        BagError,
        BundleError,
        ExportError,
        FrameError,
        ImageFolderError,
        QuantisationError,
        RuntimeUnavailable,
        TrainedError,
    )
