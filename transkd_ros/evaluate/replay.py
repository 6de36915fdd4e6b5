"""A replay through a running node, before and after: what is to be played, and what the evaluation leaves.

The replay itself, with its topics, is in `nodes/evaluation.py`; what came out of it is kept and counted in `live`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transkd_ros import sizes
from transkd_ros.bags.messages import COMPRESSED_IMAGE
from transkd_ros.bags.storage import BagError, BagReader
from transkd_ros.cli import CommandError
from transkd_ros.evaluate import bag_cameras, live, pipeline
from transkd_ros.evaluate.bag_cameras import Camera
from transkd_ros.evaluate.live import LiveEvaluation, Recording
from transkd_ros.evaluate.live_page import make_live_page
from transkd_ros.evaluate.result import METRICS, ModelRun, details_of
from transkd_ros.evaluate.scoring import Score
from transkd_ros.model.bundle import Bundle, load_bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.resources import find_model

OFFLINE = "offline"  # folder of the offline evaluation, below that of the live one
RUN = "run"


@dataclass(frozen=True)
class Replay:
    """What is replayed and held against what; `plan` makes one and checks it."""

    bag: Path
    cameras: list[Camera]
    compressed: bool  # all of them
    options: list[str]  # with which the offline evaluation takes the same frames and labels

    @property
    def topics(self) -> list[str]:
        """Of the bag, to be played: the frames. Labels are read from the bag, where none can get lost."""
        return [camera.topic for camera in self.cameras]

    def frames_topic(self, camera: Camera) -> str:
        """Where the segmentation node expects the frames of a camera."""
        return f"{camera.name}/image_raw" + ("/compressed" if self.compressed else "")

    def renamed(self) -> list[tuple[str, str]]:
        """(topic of the bag, where to play it) of those that are not called so already."""
        pairs = [(camera.topic, self.frames_topic(camera)) for camera in self.cameras]
        return [(topic, played) for topic, played in pairs if topic != played]


def plan(
    bag: Path, topics: Sequence[str] = (), label_topic: str = "", label_folder: str = "", classes: str = ""
) -> Replay:
    """The replay of a bag's cameras, or of those on `topics`; the labels are chosen as `bag_cameras.choose` does.

    `classes` names the class table of the labels. Raises BagError, TruthError or ImageFolderError for a bag, topics or
    labels that cannot be used, ValueError or OSError for a class table.
    """
    table = LabelTable.load(classes) if classes else None
    with BagReader(bag) as reader:
        folder = Path(label_folder) if label_folder else None
        chosen = bag_cameras.choose(reader, list(topics) or None, label_topic or None, folder, table)
        kinds = {camera.topic: reader.topics[camera.topic] for camera in chosen}
    names = [camera.name for camera in chosen]
    if len(set(kinds.values())) > 1 or len(set(names)) < len(names):
        raise BagError(f"{bag}: a node takes frames raw or compressed, not both; choose topics of {', '.join(kinds)}")
    for camera in chosen:
        with camera.open_truth():  # finds a folder that cannot be used
            pass
    options = [word for topic in kinds for word in ("--topic", topic)]
    options += ["--ground-truth", label_topic] * bool(label_topic) + ["--labels", label_folder] * bool(label_folder)
    options += ["--classes", classes] * bool(classes)
    return Replay(bag, chosen, COMPRESSED_IMAGE in kinds.values(), options)


@dataclass
class Account:
    """What is left of a replay when it is over; `interrupted` before its end."""

    replay: Replay
    model: str
    recordings: dict[str, Recording]  # by camera
    diagnostics: Mapping[str, Mapping[str, str]]  # the segmentation node's last, by status
    interrupted: bool = False


def conclude(account: Account, output: Path, offline: str) -> LiveEvaluation:
    """Score the masks and write metrics.json and report.html to `output`.

    `offline` is the metrics.json to set beside it, or "run" for an offline evaluation of the same bag and model, now,
    or "". Ctrl-C ends the scoring, as a damaged part of the bag does; what is there by then is written and called
    partial. Raises CommandError if no frame got a mask or `offline` cannot be used.
    """
    bundle = load_bundle(find_model(account.model), verify=False)
    given = None if offline in ("", RUN) else live.read_offline(Path(offline), bundle.manifest.name)
    print("scoring the masks …", flush=True)
    evaluation = _scored(account, bundle)
    if not evaluation.models[0].frames:
        raise CommandError(f"{account.replay.bag}: none of its frames got a mask that could be scored")
    if given:
        evaluation.offline = given
        if (seen := live.frames_of(given[0])) != evaluation.in_bag:
            theirs, ours = (", ".join(f"{n} of {name}" for name, n in f.items()) for f in (seen, evaluation.in_bag))
            evaluation.notes.append(f"The offline result is of other frames: {theirs}; the bag has {ours}.")
    _write(evaluation, output)
    if offline == RUN and not evaluation.partial:
        evaluation.offline = _run_offline(account, bundle, output / OFFLINE)
        _write(evaluation, output)
    return evaluation


def _scored(account: Account, bundle: Bundle) -> LiveEvaluation:
    """The masks of all cameras against the bag."""
    manifest, replay = bundle.manifest, account.replay
    run = ModelRun(f"{manifest.name} live", manifest.labels, details_of(bundle, _runtime(account, bundle)))
    evaluation = LiveEvaluation(
        f"Frames of {replay.bag}, replayed through the running node", bag_cameras.describe(replay.cameras), [run],
        recordings=account.recordings, in_bag={camera.name: camera.frames for camera in replay.cameras},
        diagnostics=account.diagnostics,
    )  # fmt: skip
    if account.interrupted:
        evaluation.partial = "Stopped before the end of the bag."
    for remark in bag_cameras.matched(replay.cameras, manifest.name, manifest.labels):
        evaluation.note(remark)
    live.take_latencies(run, account.recordings)
    try:
        for camera in replay.cameras:
            run.scores[camera.name] = score = Score(run.labels, truth=camera.classes)
            with BagReader(replay.bag) as bag, camera.open_truth() as truth:
                live.score(pipeline.shots(bag, camera.topic, truth), account.recordings[camera.name], score)
                evaluation.note_unmatched(camera.name, score, truth)
    except KeyboardInterrupt:
        evaluation.partial = "Scoring was stopped before the last mask."
    except BagError as error:
        evaluation.partial = f"The bag is damaged: {error}."
    return evaluation


def _runtime(account: Account, bundle: Bundle) -> SimpleNamespace:
    """What the node says it ran on, with the attributes of a Runtime."""
    node = account.diagnostics.get("node", {})
    names = {name: node.get(name, "unknown") for name in ("engine", "device", "precision")}
    input_size = sizes.parse(node["input size"]) if "input size" in node else bundle.manifest.input_size
    return SimpleNamespace(**names, input_size=input_size)


def _run_offline(account: Account, bundle: Bundle, output: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate the same model offline as the node ran it, in a process of its own. Raises CommandError."""
    runtime = _runtime(account, bundle)
    command = [sys.executable, "-m", "transkd_ros.evaluate", "--bag", account.replay.bag, "--model", bundle.path]
    command += ["--output", output, *account.replay.options]
    if account.diagnostics.get("node"):
        command += ["--engine", runtime.engine, "--device", runtime.device, "--precision", runtime.precision]
        command += ["--size", sizes.text(runtime.input_size)]
    print(f"offline evaluation of {account.replay.bag} …", flush=True)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise CommandError(f"the live results are written, but the offline evaluation failed: {last}")
    return live.read_offline(output / METRICS, bundle.manifest.name)


def _write(evaluation: LiveEvaluation, output: Path) -> None:
    evaluation.write(output, lambda _: make_live_page(evaluation))
