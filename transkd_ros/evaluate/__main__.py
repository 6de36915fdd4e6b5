"""Evaluate models on a recorded drive, images or a video: `python -m transkd_ros.evaluate`. No ROS needed.

Every frame of the bags goes exactly once through every model. Leaves metrics.json and report.html, and with
`--write-bag` the masks as a bag. Ctrl-C or a damaged bag: what was scored until then is written and called partial.
`--merge A/metrics.json B/metrics.json` adds up what was evaluated apart, on several robots or machines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_ros import cli

# What is slow to import comes after the arguments are read.
if TYPE_CHECKING:
    from transkd_ros.evaluate.bag_cameras import Camera
    from transkd_ros.evaluate.masks import MaskBag
    from transkd_ros.evaluate.result import Evaluation
    from transkd_ros.model.bundle import Bundle
    from transkd_ros.segmenter import Segmenter


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transkd_ros.evaluate", description="Evaluate models on every frame of a drive."
    )
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument("--bag", type=Path, action="append", help="a rosbag2 bag, sqlite3 or MCAP; repeatable")
    frames.add_argument("--images", type=Path, help="a folder of images, or a video file")
    frames.add_argument(
        "--merge", type=Path, nargs="+", metavar="METRICS", help="add up these metrics.json into OUTPUT/metrics.json, "
        "and evaluate nothing"
    )  # fmt: skip
    parser.add_argument("--topic", action="append", help="image topic of the bag; repeatable (default: every camera)")
    parser.add_argument(
        "--model", action="append", help="name of a shipped model, or folder of a bundle; repeatable"
    )
    truth = parser.add_argument_group("ground truth (default: <camera>/ground_truth if the bag has it)")
    one = truth.add_mutually_exclusive_group()
    one.add_argument("--ground-truth", metavar="TOPIC", help="label topic, or its name below each camera's")
    one.add_argument(
        "--labels", type=Path, help="folder of label images: of the names of --images; for a bag named by stamp (ns) "
        "or else in order, of several cameras, or bags, a folder each, e.g. LABELS/front, LABELS/monday/front"
    )  # fmt: skip
    one.add_argument("--teacher", help="a model whose masks serve as ground truth")
    truth.add_argument(
        "--classes", type=cli.class_table, metavar="TABLE", help="class table of the labels: camvid, … or a YAML file "
        "(default: what the bag says, else the model's own)"
    )  # fmt: skip
    engine = parser.add_argument_group("engine, of all models")
    cli.add_engine_options(engine)
    engine.add_argument("--size", type=cli.size, help="WIDTHxHEIGHT the network sees (default: the model's own)")
    parser.add_argument("--output", type=Path, default=Path("evaluation"), help="folder (default evaluation)")
    parser.add_argument("--write-bag", action="store_true", help="also write the masks as a bag, OUTPUT/masks")
    return parser


def main() -> int:
    parser = _parser()
    args = parser.parse_args()
    if bool(args.merge) == bool(args.model):
        parser.error("--model belongs to --bag or --images, and to nothing else")
    if args.merge:
        return _merge(args.merge, args.output)

    from transkd_ros.bags.image_folder import ImageFolderError
    from transkd_ros.bags.storage import BagError
    from transkd_ros.evaluate.truth import TruthError
    from transkd_ros.model.bundle import BundleError
    from transkd_ros.model.class_map import ClassTableError
    from transkd_ros.model.engines import RuntimeUnavailable

    try:
        return _evaluate(args)
    except (BagError, BundleError, ClassTableError, ImageFolderError, TruthError, RuntimeUnavailable) as error:
        raise cli.CommandError(str(error)) from error


def _merge(parts: list[Path], output: Path) -> int:
    from transkd_ros.evaluate.merging import MergeError, merge, read
    from transkd_ros.evaluate.result import METRICS
    from transkd_ros.files import write_atomic

    try:
        merged = merge([read(path) for path in parts])
    except MergeError as error:
        raise cli.CommandError(str(error)) from error
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / METRICS, json.dumps(merged, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    for name, model in merged["models"].items():
        total, frames = model["total"], sum(camera["frames"]["scored"] for camera in model["cameras"].values())
        quality = "no labels" if total["miou"] is None else f"{total['miou']:.1%} mIoU"
        print(f"{name}: {frames} frames of {len(model['cameras'])} cameras, {quality}")
    print(output / METRICS)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    """Everything from the models to the files; returns the exit code."""
    from transkd_ros.bags.image_folder import ImageFolderError
    from transkd_ros.bags.storage import BagError
    from transkd_ros.evaluate import bag_cameras
    from transkd_ros.evaluate.masks import MaskBag
    from transkd_ros.evaluate.result import Evaluation
    from transkd_ros.model.bundle import load_bundle
    from transkd_ros.resources import find_model

    if args.images and (args.topic or args.ground_truth):
        raise cli.CommandError("--topic and --ground-truth belong to --bag")
    bundles = _named([load_bundle(find_model(model)) for model in args.model])
    teacher = load_bundle(find_model(args.teacher)) if args.teacher else None
    _check_classes(list(bundles.values()))
    code, damage = 0, None
    with ExitStack() as stack:
        sources = [args.images] if args.images else args.bag
        frames, views = _opened(stack, sources, args)
        truth = f"masks of {teacher.manifest.name}" if teacher else bag_cameras.describe(views)
        evaluation = Evaluation(f"Frames of {', '.join(map(str, sources))}", truth)
        for remark in _remarks(bundles, teacher, views):
            evaluation.note(remark)
        args.output.mkdir(parents=True, exist_ok=True)
        masks = stack.enter_context(MaskBag(args.output / "masks", len(bundles) > 1)) if args.write_bag else None
        try:
            for name, bundle in bundles.items():
                _run(evaluation, name, bundle, teacher, frames, views, masks, args)
        except KeyboardInterrupt:
            code, evaluation.partial = 130, "Stopped before the end of the bag."
        except SystemExit as end:  # SIGTERM, see `cli`
            code, evaluation.partial = int(end.code or 0), "Stopped before the end of the bag."
        except (BagError, ImageFolderError) as error:
            damage, evaluation.partial = error, f"{cli.one_line(error)}."
        scored = _has_scores(evaluation, sources[0], ended_early=bool(code or damage))
    if scored:
        _write(evaluation, args)
    if damage:
        raise damage
    return code


def _opened(stack: ExitStack, sources: list[Path], args: argparse.Namespace) -> tuple[dict[Path, Any], list[Camera]]:
    """What the frames are read from, by path, and the cameras of all: those of several bags by the bags' names, too."""
    from transkd_ros.bags.frame_files import FrameFiles
    from transkd_ros.bags.storage import BagReader
    from transkd_ros.evaluate import bag_cameras

    if args.images:
        files = FrameFiles(args.images, args.labels, args.classes)
        return {args.images: files}, [bag_cameras.of_files(files)]
    names = bag_cameras.bag_names(sources)
    if args.write_bag and len(names) > 1:
        raise cli.CommandError("--write-bag is for one bag")
    bags = {path: stack.enter_context(BagReader(path)) for path in sources}
    if len(bags) < len(names):
        raise cli.CommandError("--bag names the same bag twice")
    views = []
    for name, bag in zip(names, bags.values(), strict=True):
        labels = args.labels and args.labels / name.strip("/")
        found = bag_cameras.choose(bag, args.topic, args.ground_truth, labels, args.classes)
        views += [replace(camera, name=name + camera.name) for camera in found]
    return bags, views


def _named(bundles: list[Bundle]) -> dict[str, Bundle]:
    """By the names of the models; the folder tells apart those of one name."""
    names = [bundle.manifest.name for bundle in bundles]
    named = {n if names.count(n) == 1 else f"{n} ({b.path})": b for n, b in zip(names, bundles, strict=True)}
    if len(named) < len(bundles):
        raise cli.CommandError("--model names the same bundle twice")
    return named


def _remarks(bundles: dict[str, Bundle], teacher: Bundle | None, views: list[Camera]) -> list[str]:
    """How the classes of the ground truth fit those of the models. Raises ClassTableError where they do not."""
    from transkd_ros.evaluate import bag_cameras
    from transkd_ros.model.class_map import class_map

    name, bundle = next(iter(bundles.items()))  # all have the same classes
    labels = bundle.manifest.labels
    if not teacher:
        return bag_cameras.matched(views, name, labels)
    whose = f"the masks of {teacher.manifest.name}"
    return [class_map(teacher.manifest.labels, labels, whose, name).remark(whose, name)]


def _check_classes(bundles: list[Bundle]) -> None:
    first, *others = (bundle.manifest for bundle in bundles)
    for other in others:
        if (first.labels.names, first.labels.ignore_id) != (other.labels.names, other.labels.ignore_id):
            raise cli.CommandError(
                f"{other.name} has other classes than {first.name}: {', '.join(other.labels.names)} against "
                f"{', '.join(first.labels.names)}; only models of one class table can be compared"
            )


def _run(
    evaluation: Evaluation, name: str, bundle: Bundle, teacher: Bundle | None, sources: dict[Path, Any],
    views: list[Camera], masks: MaskBag | None, args: argparse.Namespace,
) -> None:  # fmt: skip
    """One model on all cameras, added to the evaluation from its first frame on."""
    from transkd_ros.evaluate import bag_cameras, pipeline
    from transkd_ros.evaluate.result import ModelRun, details_of
    from transkd_ros.evaluate.scoring import Score

    segmenter = _segmenter(bundle, args)
    teaching = _segmenter(teacher, args) if teacher else None
    print(f"{name}: {segmenter.runtime.reason}")
    run = ModelRun(name, bundle.manifest.labels, details_of(bundle, segmenter.runtime))
    evaluation.models.append(run)
    for camera in views:
        classes = teacher.manifest.labels if teacher else camera.classes
        bag = sources[camera.bag]
        start = getattr(bag, "start", 0)  # files have no times
        own_name = bag_cameras.camera_name(camera.topic)
        run.origins[camera.name] = {"bag": str(camera.bag), "start_ns": start, "camera": own_name}
        run.scores[camera.name] = score = Score(run.labels, truth=classes)
        sink = masks.sink(name, camera.name, run.labels) if masks else None
        labels = nullcontext() if teaching else camera.open_truth()
        with labels as truth, _progress(f"{name} {camera.name}", camera.frames) as show:
            start = time.perf_counter()
            try:
                frames = pipeline.shots(bag, camera.topic, truth, segmenter.runtime.input_size)
                pipeline.evaluate(frames, segmenter, score, run.latencies, teaching, sink, show)
            finally:
                run.seconds += time.perf_counter() - start
                evaluation.note_unmatched(camera.name, score, truth)
    for used in (segmenter, teaching):
        if used:
            used.runtime.close()


def _segmenter(bundle: Bundle, args: argparse.Namespace) -> Segmenter:
    from transkd_ros.model.engines import open_runtime
    from transkd_ros.segmenter import Segmenter

    runtime = open_runtime(bundle, args.engine, args.device, args.precision, args.size)
    return Segmenter(runtime)


@contextmanager
def _progress(what: str, frames: int) -> Iterator[Any]:
    """A function that moves a bar on by one frame."""
    with cli.progress() as progress:
        task = progress.add_task(what, total=frames)
        yield lambda: progress.advance(task)


def _has_scores(evaluation: Evaluation, source: Path, ended_early: bool) -> bool:
    """Whether any frame got a mask; models without one are dropped.

    Raises CommandError if there is none though the bag was read to its end.
    """
    scores = [score for run in evaluation.models for score in run.scores.values()]
    evaluation.models = [run for run in evaluation.models if run.frames]
    if not evaluation.models and not ended_early:
        broken = ", ".join(f"{count} of cause {cause}" for score in scores for cause, count in score.skipped.items())
        raise cli.CommandError(f"{source}: no frame could be used (broken: {broken or 'none'})")
    return bool(evaluation.models)


def _write(evaluation: Evaluation, args: argparse.Namespace) -> None:
    from transkd_ros.evaluate.offline_page import make_page

    paths = evaluation.write(args.output, make_page)
    _print_results(evaluation)
    print(*paths, *([args.output / "masks"] if args.write_bag else []), sep="\n")


def _print_results(evaluation: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from transkd_ros.reports.html import number, percent

    caption = "acc.: pixel accuracy; bF1: boundary F1; p50, p95: time from message to mask"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption=caption)
    table.add_column("model", overflow="fold")
    for heading in ("frames", "mIoU\n%", "acc.\n%", "bF1\n%", "flicker\n%", "rate\nHz", "p50\nms", "p95\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in evaluation.models:
        metrics, timings = run.metrics.to_json(), run.timings()
        quality = [percent(metrics.get(key)) for key in ("miou", "pixel_accuracy", "boundary_f1")]
        times = [number(timings["latency_ms"]["total"][key]) for key in ("p50", "p95")]
        flicker, rate = percent(metrics["flicker"]["share"]), number(timings["frames_per_second"])
        table.add_row(run.name, str(run.frames), *quality, flicker, rate, *times)
    Console().print(table)
    for remark in (evaluation.partial and f"Partial: {evaluation.partial}", *evaluation.notes):
        if remark:
            print(remark)


if __name__ == "__main__":
    cli.run(main)
