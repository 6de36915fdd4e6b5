"""From a robot's own drive to its own student: `python training/adapt.py --bag DRIVE --teacher T --output models/NAME`.

Takes frames out of bags, asks the teachers about them, trains a student on what they say, exports it, and holds it to
the teachers on the end of every drive, which it was not trained on. No label is needed. The working folder, runs/NAME,
keeps frames, soft labels, recipe.yaml, the run and report.html; called again, the command goes on where it was.
Under torchrun the processes share extraction and annotation, and end before the training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`
    from training.requirements import require

    require()

import cv2
from torch.utils.data import ConcatDataset

from training import distill, export
from training.adaptation.adaptation import Adaptation
from training.adaptation.held_out import Standing, scores, stand, write_folder
from training.adaptation.opinion import Opinion, export_for_labelling, opinion_of
from training.adaptation.page import Story, make_page
from training.adaptation.plan import show_plan
from training.adaptation.recipe import Budget, recipe_text, trust_of
from training.annotate import PROCESSES, RANK, annotate
from training.bundle_checks import ExportError
from training.callbacks.folder import CHECKPOINTS, CONFIG, LAST, METRICS
from training.committee import class_weight
from training.data.extraction import ExtractedFrame, Extraction, FramesError, extract, part_of
from training.data.samples import UnlabelledImages
from training.quantise import QuantisationError
from training.soft_labels import SoftLabels
from transkd_ros import cli
from transkd_ros.bags.storage import BagError
from transkd_ros.evaluate.metrics import ConfusionMatrix
from transkd_ros.evaluate.truth import TruthError
from transkd_ros.files import write_atomic
from transkd_ros.model.bundle import Bundle, load_bundle
from transkd_ros.model.class_map import ClassTableError
from transkd_ros.model.engines import RuntimeUnavailable
from transkd_ros.resources import DEFAULT_MODEL, find_model

STATE, RECIPE, REPORT = "adapt.json", "recipe.yaml", "report.html"
BAD_INPUT = (*distill.BAD_INPUT, BagError, ClassTableError, ExportError, RuntimeUnavailable, TruthError)
SAVED = (
    *("bag", "topic", "every", "most", "distinct", "longest", "held_out", "student", "labelled", "ratio"),
    *("teacher", "class_map", "labels", "size", "scales", "flip", "class_weights"),
)
"""What a working folder is of: with another of these it is not gone on with."""


# ---- the steps
def settings(args: argparse.Namespace) -> dict[str, Any]:
    return json.loads(json.dumps({name: getattr(args, name) for name in SAVED}, default=str))


def read_state(adaptation: Adaptation) -> dict[str, Any]:
    """What an earlier call left in the working folder. Raises CommandError for another adaptation's."""
    path = adaptation.folder / STATE
    if not path.is_file():
        return {"settings": settings(adaptation.args), "seconds": {}}
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = settings(adaptation.args)
    if differs := [f"--{name.replace('_', '-')}" for name in SAVED if state["settings"].get(name) != now[name]]:
        raise cli.CommandError(
            f"{adaptation.folder} holds an adaptation with another {', '.join(differs)}: choose another --work, or "
            "remove it"
        )
    return state


def write_state(adaptation: Adaptation, state: dict[str, Any]) -> None:
    write_atomic(adaptation.folder / STATE, json.dumps(state, indent=1) + "\n")


def is_own(state: dict[str, Any], output: Path) -> bool:
    """Whether the bundle at `output` is this adaptation's: it has written there, or begun to."""
    return state.get("output") == str(output.resolve())


@contextmanager
def timed(adaptation: Adaptation, state: dict[str, Any], step: str) -> Iterator[None]:
    """Add the time of a step to the state, whether it ends or is stopped."""
    print(f"{step} …", flush=True)
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = state["seconds"].get(step, 0) + time.monotonic() - start
        state["seconds"][step] = round(seconds, 1)
        write_state(adaptation, state)


def ask(adaptation: Adaptation, extractions: Sequence[Extraction]) -> SoftLabels:
    """Have every frame of every drive annotated, and the labelled images."""
    committee, maps = adaptation.committee()
    store = SoftLabels.create(adaptation.folder / "soft_labels", committee.described(maps, adaptation.args.stride))
    drives = UnlabelledImages([frame.path for found in extractions for frame in found.frames])
    labelled = adaptation.labelled()
    frames: Any = drives if labelled is None else ConcatDataset([drives, labelled])
    with cli.progress() as bar:
        task = bar.add_task("annotating", total=len(frames))
        annotate(committee, store, frames, lambda: bar.advance(task))
    return store


def write_recipe(adaptation: Adaptation, extractions: Sequence[Extraction]) -> Path:
    """The recipe, unless there is one, which may have been edited."""
    path = adaptation.folder / RECIPE
    if path.exists():
        return path
    labelled: Any = adaptation.labelled()
    train, val, _ = adaptation.parts
    count = len(labelled) if labelled is not None else len(part_of(list(extractions), train))
    if not count:
        raise FramesError(f"{adaptation.args.bag[0]}: no frame before the held-out stretch: a longer drive, or --every")
    args = adaptation.args
    budget = Budget(args.steps, args.batch, args.lr, args.trust, dict(args.class_weights))
    command = f"training/adapt.py, for {args.output}"
    text = recipe_text(
        command, adaptation.student, args.student, adaptation.frames, val, count, args.labelled, adaptation.folder,
        budget,
    )  # fmt: skip
    write_atomic(path, text)
    return path


def train(adaptation: Adaptation, recipe: Path) -> None:
    """Train, or go on, unless the run has ended. Raises CommandError for one that was of another recipe."""
    folder = adaptation.folder
    if (folder / METRICS).is_file():
        trained, wanted = (distill.settings_of(["--config", str(path)]) for path in (folder / CONFIG, recipe))
        if differs := sorted(name for name in wanted if name != "config" and wanted[name] != trained.get(name)):
            raise cli.CommandError(
                f"{recipe}: {differs[0]} was changed since that run; train again, then call this again: "
                f"python training/distill.py --config {recipe} --overwrite"
            )
        return
    last = folder / CHECKPOINTS / LAST
    distill.main(["--config", str(recipe), *(["--ckpt_path", str(last)] if last.is_file() else [])])
    if not (folder / METRICS).is_file():
        raise cli.CommandError(f"{folder}: the run has ended without {METRICS}")


def write_bundle(adaptation: Adaptation, state: dict[str, Any], images: Path, masks: Path) -> Bundle:
    """Export the best checkpoint, unless it has been; in int8 too where that passes its gate."""
    args, best = adaptation.args, adaptation.folder / CHECKPOINTS / "best.ckpt"
    digest = hashlib.sha256(best.read_bytes()).hexdigest()
    if args.output.exists() and state.get("exported") == digest and is_own(state, args.output):
        return load_bundle(args.output)
    words = ["--checkpoint", best, "--output", args.output, "--images", images, "--labels", masks]
    words += ["--split", "held_out_as_the_teachers_see_it", "--recipe", adaptation.folder / RECIPE]
    words += ["--data-note", f"Taught by {', '.join(args.teacher)} on {len(args.bag)} drives, without their labels."]
    overwrite = args.overwrite or is_own(state, args.output)
    export.check_output(args.output, overwrite)
    state["output"] = str(args.output.resolve())
    write_state(adaptation, state)  # whatever ends this call: what it has written there is its own
    words += ["--overwrite"] if overwrite else []
    attempts: list[list[Any]] = [["--int8"], []] if args.int8 else [[]]
    for more in attempts:
        try:
            export.export(export.parse_arguments([str(word) for word in [*words, *more]]))
            break
        except (ExportError, QuantisationError) as error:
            if not more:
                raise
            print(f"no int8: {cli.one_line(error)}")
    state["exported"] = digest
    return load_bundle(args.output)


# ---- the command
def adapt(adaptation: Adaptation) -> None:
    """All steps, each only as far as it is not done; of several processes those that can be shared."""
    args, folder = adaptation.args, adaptation.folder
    state = read_state(adaptation)
    if not is_own(state, args.output):
        export.check_output(args.output, args.overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "classes.yaml", adaptation.student.manifest.labels.to_yaml())
    with timed(adaptation, state, "extraction"):
        extractions = extract(adaptation.frames)
    held_out = _held_out(adaptation, extractions)
    with timed(adaptation, state, "annotation"):
        store = ask(adaptation, extractions)
    if PROCESSES > 1:
        return
    recipe = write_recipe(adaptation, extractions)
    trust = trust_of(recipe)
    opinion = opinion_of(store, [frame for found in extractions for frame in found.frames], trust)
    disputed = opinion.most_disputed(args.export_for_labelling)
    if disputed:
        export_for_labelling(disputed, store, folder / "for_labelling")
    with timed(adaptation, state, "training"):
        train(adaptation, recipe)
    with timed(adaptation, state, "export"):
        bundle = write_bundle(adaptation, state, *write_folder(held_out, store, folder / "held_out"))
    with timed(adaptation, state, "evaluation"):
        standings, teachers = stand({"before": adaptation.student, "after": bundle}, held_out, store)
    _report(adaptation, state, extractions, opinion, trust, store, held_out, standings, teachers, bundle)


def _held_out(adaptation: Adaptation, extractions: list[Extraction]) -> list[ExtractedFrame]:
    """Raises FramesError for drives without a frame there, before anything is computed."""
    train, val, last = (part_of(extractions, part) for part in adaptation.parts)
    if not (train and val and last):
        found = ", ".join(f"{len(frames)}" for frames in (train, val, last))
        raise FramesError(
            f"{', '.join(str(bag) for bag in adaptation.args.bag)}: too short for a stretch that is held out: {found} "
            "frames to train on, to choose by and to hold out; a longer drive, a smaller --every, or another --held-out"
        )
    return sorted(last, key=lambda frame: (frame.source, frame.topic, frame.recorded_ns))


def _report(
    adaptation: Adaptation, state: dict[str, Any], extractions: list[Extraction], opinion: Opinion, trust: float,
    store: SoftLabels, held_out: list[ExtractedFrame], standings: list[Standing], teachers: ConfusionMatrix,
    bundle: Bundle,
) -> None:  # fmt: skip
    args, folder = adaptation.args, adaptation.folder
    train, val, _ = (part_of(extractions, part) for part in adaptation.parts)
    counts = {"trained on": len(train), "to choose the best epoch by": len(val), "held out": len(held_out)}
    cost = {step: f"{seconds:.0f} s" for step, seconds in state["seconds"].items()}
    cost["student"] = f"{bundle.manifest.parameters / 1e6:.2f} M parameters, {bundle.manifest.macs / 1e9:.2f} GMACs"
    commands = [
        f"ros2 launch transkd_ros segment.launch.py model:={args.output.resolve()}",
        f"python -m transkd_ros.evaluate --bag {shlex.quote(str(args.bag[0]))} --model {args.output}",
        f"python training/distill.py --config {folder / RECIPE} --overwrite",
    ]
    labelling = str(folder / "for_labelling") if args.export_for_labelling else None
    story = Story(
        args.output.name, extractions, counts, opinion, store, trust, held_out, standings, labelling, cost,
        commands,
    )  # fmt: skip
    write_atomic(folder / REPORT, make_page(story))
    labels = store.labels
    result = {standing.name: standing.to_json(labels) for standing in standings}
    if teachers.matrix.any():
        result["teachers"] = {"labels": scores(teachers, labels)}
    kept = dict(zip(labels.names, (opinion.trusted / opinion.pixels.clip(1)).round(4).tolist(), strict=True))
    trusted = {"threshold": trust, "kept": round(opinion.kept, 4), "kept_by_class": kept}
    summary = {"frames": counts, "confidence": round(opinion.confidence, 4), "trust": trusted, "held_out": result}
    write_atomic(folder / "result.json", json.dumps(summary | {"seconds": state["seconds"]}, indent=1) + "\n")
    for name, found in result.items():
        for who, score in found.items():
            print(f"{name}: {score['miou']:.1%} mIoU, {score['pixel_accuracy']:.1%} of the pixels as {who}")
    print(f"wrote {bundle.path}, {folder / REPORT}", f"next: {commands[0]}", sep="\n")


def parse_arguments(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="training/adapt.py", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--bag", type=Path, action="append", required=True, help="a bag or image folder; repeatable")
    parser.add_argument("--teacher", action="append", required=True, help="checkpoint, bundle or hub name; repeatable")
    parser.add_argument("--output", type=Path, required=True, help="folder of the new bundle; its name is the model's")
    parser.add_argument("--student", default=DEFAULT_MODEL, help="bundle whose network and weights start (%(default)s)")
    parser.add_argument("--labelled", type=Path, help="folder whose train/ has images/ and labels/, mixed in")
    parser.add_argument("--work", type=Path, help="working folder (runs/ and the name of the output)")
    parser.add_argument("--dry-run", action="store_true", help="show the plan with sizes and times, and end")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--export-for-labelling", type=cli.positive_int, default=0, metavar="N",
                        help="write the N frames the teachers disagree most about, with their masks")
    frames = parser.add_argument_group("frames")
    frames.add_argument("--topic", action="append", help="image topic (default: every camera)")
    frames.add_argument("--every", type=float, default=1.0, help="seconds between two frames of a camera (%(default)s)")
    frames.add_argument("--most", type=cli.positive_int, default=400, help="frames of a drive at most (%(default)s)")
    frames.add_argument("--distinct", type=float, default=2.0, help="grey levels that frames differ by (%(default)s)")
    frames.add_argument("--longest", type=cli.positive_int, default=1024, help="longer side in pixels (%(default)s)")
    frames.add_argument("--held-out", type=cli.positive_float, default=0.1,
                        help="share of each drive, its end, that is evaluated; as much before it chooses the epoch")
    teachers = parser.add_argument_group("teachers")
    teachers.add_argument("--class-map", action="append", help="of all teachers, or one for each, or none")
    teachers.add_argument("--labels", help="class table of published teachers (name or YAML file)")
    teachers.add_argument("--size", type=cli.size, help="WIDTHxHEIGHT they see (the student's)")
    teachers.add_argument("--scales", type=cli.positive_float, nargs="+", default=[1.0], help="of that size (1)")
    teachers.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True, help="average both sides")
    teachers.add_argument("--class-weights", type=class_weight, nargs="+", default=[], metavar="CLASS=FACTOR",
                          help="e.g. pole=2.7: teachers say it earlier, and --labelled images count it more")
    teachers.add_argument("--stride", type=cli.positive_int, default=4, help="frame pixels a stored one (%(default)s)")
    run = parser.add_argument_group("run, of a recipe that is not there yet")
    run.add_argument("--trust", type=float, default=0.5, help="least probability that teaches (%(default)s)")
    run.add_argument("--ratio", type=float, default=0.5, help="share of the drives beside --labelled (%(default)s)")
    run.add_argument("--steps", type=cli.positive_int, default=600, help="of training (%(default)s)")
    run.add_argument("--batch", type=cli.positive_int, default=8, help="frames a step (%(default)s)")
    run.add_argument("--lr", type=cli.positive_float, default=3e-4, help="peak learning rate (%(default)s)")
    run.add_argument("--int8", action=argparse.BooleanOptionalAction, default=True, help="add the graph in int8")
    arguments = parser.parse_args(args)
    if not arguments.held_out < 0.5:
        parser.error("--held-out must be below 0.5: twice as much is not trained on")
    arguments.work = arguments.work or Path("runs") / arguments.output.name
    return arguments


def main(args: list[str] | None = None) -> int:
    arguments = parse_arguments(args)
    try:
        student = load_bundle(find_model(arguments.student))
    except FileNotFoundError as error:
        raise cli.CommandError(f"--student: {error}") from error
    adaptation = Adaptation(arguments, student)
    if arguments.dry_run:
        show_plan(adaptation)
    else:
        adapt(adaptation)
        if PROCESSES > 1 and RANK == 0:  # its own frames are annotated, and torchrun awaits the others
            again = shlex.join(["python", "training/adapt.py", *(sys.argv[1:] if args is None else args)])
            print(f"frames and soft labels are shared out; when all processes have ended, train: {again}")
    return 0


if __name__ == "__main__":
    cv2.setNumThreads(0)
    distill.quiet()
    cli.run(main, *BAD_INPUT)
