"""Frames of drives without labels: chosen from bags and image folders, decoded once, and kept as PNG files.

A source becomes a folder of the cache: its frames, pixel by pixel as a node would decode them, and `frames.json`, which
is written last: without it the folder is not whole, and the next call goes on. A bag is read message by message.
Training on the frames is the business of `training.data.base` and `training.data.drives`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from training.data.loading import turn
from training.soft_labels import frame_hash
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError, list_images, read_image
from transkd_ros.bags.messages import deserialize, header_stamp
from transkd_ros.bags.storage import BagError, BagReader
from transkd_ros.files import write_atomic
from transkd_ros.frames import Frame, FrameError, SampleBits, decode, resize

INDEX = "frames.json"
VERSION = 1
THUMBNAIL = (24, 32)  # (H, W)
FOLDER_STEP = 1_000_000_000  # ns from one image of a folder to the next: it does not say when they were taken
PATIENCE = 120.0
"""Seconds that a process waits for another to go on with a source before it extracts that itself."""


class FramesError(ImageFolderError):
    """A source of frames, or their cache, that cannot be used; the text names it."""


@dataclass
class Unlabelled:
    """Frames without labels, as a recipe names them.

    Args:
        sources: image folders and rosbag2 bags (a folder, an .mcap or a .db3 file).
        topics: image topics of the bags; by default all cameras. An image folder has none.
        every: seconds of a drive between two frames of a camera; 0 takes every frame. An image folder counts as one
            image a second.
        most: how many frames of a source at most, spread over the drive and shared by its cameras.
        distinct: how much a frame has to differ from the last one that was kept of its camera: the mean absolute
            difference of both in grey at 32x24 pixels, in levels of 255. What differs less is a near-duplicate.
        longest: the longer side of a frame in pixels; larger ones are made smaller.
        part: which part of every drive in time, 0 its start and 1 its end.
        ratio: the share of the samples of an epoch that come from here, in place of labelled ones.
        cache: the folder of decoded frames.
    """

    sources: list[str]
    topics: list[str] | None = None
    every: float = 1.0
    most: int = 400
    distinct: float = 2.0
    longest: int = 1024
    part: tuple[float, float] = (0.0, 1.0)
    ratio: float = 0.5
    cache: str = "runs/frames"

    def __post_init__(self) -> None:
        low, high = self.part = (float(self.part[0]), float(self.part[1]))  # a recipe's list
        checks = {
            "sources": bool(self.sources),
            "every": self.every >= 0,
            "most": self.most >= 1,
            "distinct": self.distinct >= 0,
            "longest": self.longest >= 32,
            "part": 0 <= low < high <= 1,
            "ratio": 0 < self.ratio < 1,
        }
        if wrong := [name for name, good in checks.items() if not good]:
            raise FramesError(f"data.init_args.unlabelled.{wrong[0]} is {getattr(self, wrong[0])}: see its description")


class ExtractedFrame(NamedTuple):
    """A frame of the cache: where it is, what it was, and `at`, when in its drive it came, 0 to 1."""

    path: Path
    source: str
    topic: str
    recorded_ns: int
    stamp_ns: int
    hash: str
    at: float


@dataclass
class Extraction:
    """What became of a source: `seen` frames were looked at, `duplicates` and `skipped` (by cause) are not kept."""

    source: str
    frames: list[ExtractedFrame]
    seen: int
    duplicates: int
    skipped: dict[str, int] = field(default_factory=dict)


def extract(choice: Unlabelled) -> list[Extraction]:
    """The frames of every source, whole drives, from the cache or decoded now. Under torchrun processes share the work.

    Raises FramesError; OSError only where a source cannot be read.
    """
    rank, processes = turn()
    folders = [(source, _folder(choice, source)) for source in choice.sources]
    for number, (source, folder) in enumerate(folders):
        if number % processes == rank:
            _extract(choice, source, folder)
    found = []
    for source, folder in folders:
        _await(folder)
        found.append(_extract(choice, source, folder))
    return found


def part_of(extractions: list[Extraction], part: tuple[float, float]) -> list[ExtractedFrame]:
    """The frames that came in that part of their drives, from 0 to 1: half open, but for the end of a drive."""
    low, high = part
    return [f for found in extractions for f in found.frames if low <= f.at < high or (f.at == high == 1)]


@dataclass(frozen=True)
class Measured:
    """What a source holds, without decoding it: `topics` with their numbers of messages, and its length in ns."""

    topics: dict[str, int]
    duration_ns: int

    def expected(self, choice: Unlabelled) -> int:
        """How many frames the choice comes to, near-duplicates included."""
        step = _step(choice, self.duration_ns, len(self.topics))
        return sum(min(count, self.duration_ns // step + 1) if step else count for count in self.topics.values())


def measure(choice: Unlabelled, source: str) -> Measured:
    """Look at a source. Raises FramesError for one that is no source, or has no such topics."""
    path = Path(source)
    try:
        if _is_folder(path):
            count = len(list_images(path))
            return Measured({"": count}, (count - 1) * FOLDER_STEP)
        with BagReader(path) as bag:
            topics = bag.chosen_topics(choice.topics)
            return Measured({topic: bag.counts[topic] for topic in topics}, round(bag.duration * 1e9))
    except (BagError, ImageFolderError) as error:
        raise FramesError(str(error)) from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not (path / "metadata.yaml").exists() and not any(path.glob("*.db3"))


def _step(choice: Unlabelled, duration_ns: int, topics: int) -> int:
    """ns between two frames of a camera; 0 for all."""
    of_camera = max(1, choice.most // topics)
    return max(round(choice.every * 1e9), duration_ns // of_camera + 1 if duration_ns else 0)


class _Seen(NamedTuple):
    """A frame that is due; `load` decodes it, (H, W, 3) uint8 RGB, and raises FrameError or ImageFolderError."""

    topic: str
    recorded_ns: int
    stamp_ns: int
    load: Callable[[], np.ndarray]


def _extract(choice: Unlabelled, source: str, folder: Path) -> Extraction:
    if (folder / INDEX).is_file():
        return _read(source, folder)
    there = measure(choice, source)
    frames: list[dict[str, Any]] = []
    thumbnails: dict[str, np.ndarray] = {}
    seen, duplicates, skipped = 0, 0, Counter[str]()
    step = _step(choice, there.duration_ns, len(there.topics))
    span = [0, there.duration_ns]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with cli.progress() as bar:
            task = bar.add_task(f"frames of {Path(source).name}", total=there.expected(choice))
            for one in _due(Path(source), there, step, span):
                seen += 1
                bar.advance(task)
                try:
                    image = _at_most(one.load(), choice.longest)
                except FrameError as error:
                    skipped[error.cause] += 1
                    continue
                thumbnail = resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), THUMBNAIL).astype(np.int16)
                last = thumbnails.get(one.topic)
                if last is not None and np.abs(thumbnail - last).mean() < choice.distinct:
                    duplicates += 1
                    continue
                thumbnails[one.topic] = thumbnail
                name = f"{one.topic.strip('/').replace('/', '_') or 'image'}_{one.recorded_ns}.png"
                if not (folder / name).is_file():
                    write_atomic(folder / name, _png(image))
                stamps = {"recorded_ns": one.recorded_ns, "stamp_ns": one.stamp_ns}
                frames.append({"file": name, "topic": one.topic, **stamps, "hash": frame_hash(image)})
        if not frames:
            causes = ", ".join(f"{count} of cause {cause}" for cause, count in skipped.items()) or "it holds none"
            raise FramesError(f"{source}: no frame could be used ({causes})")
        content = {"version": VERSION, "source": source, "choice": asdict(choice), "span_ns": span, "seen": seen}
        content |= {"duplicates": duplicates, "skipped": dict(skipped), "frames": frames}
        write_atomic(folder / INDEX, json.dumps(content, indent=1) + "\n")
    except BagError as error:
        raise FramesError(str(error)) from error
    except OSError as error:
        text = f"{folder}: frames cannot be kept ({cli.one_line(error)}); make room, or choose another cache"
        raise FramesError(text) from error
    return _read(source, folder)


def _due(path: Path, there: Measured, step: int, span: list[int]) -> Iterator[_Seen]:
    """The frames that are due every `step` ns of their camera's; `span` gets first and last time of the source."""
    frames = _of_folder(path) if _is_folder(path) else _of_bag(path, list(there.topics), span)
    due: dict[str, int] = {}
    for frame in frames:
        wanted = due.setdefault(frame.topic, frame.recorded_ns)
        if frame.recorded_ns >= wanted:
            due[frame.topic] += step * (1 + (frame.recorded_ns - wanted) // step) if step else 0
            yield frame


def _of_folder(path: Path) -> Iterator[_Seen]:
    for number, file in enumerate(list_images(path)):
        at = number * FOLDER_STEP
        yield _Seen("", at, at, lambda file=file: cv2.cvtColor(read_image(file), cv2.COLOR_BGR2RGB))  # type: ignore[misc]


def _of_bag(path: Path, topics: list[str], span: list[int]) -> Iterator[_Seen]:
    with BagReader(path) as bag:
        span[:] = bag.start, bag.start + round(bag.duration * 1e9)
        bits = {topic: SampleBits() for topic in topics}
        for recorded_ns, topic, data in bag.messages(topics):
            message = _Message(data, bag.topics[topic], bits[topic])
            yield _Seen(topic, recorded_ns, message.stamp_ns, message.load)


class _Message:
    """A recorded image, parsed when it is asked for: most messages of a bag are passed over."""

    def __init__(self, data: bytes, kind: str, bits: SampleBits) -> None:
        self.data, self.kind, self.bits = data, kind, bits

    @property
    def stamp_ns(self) -> int:
        return header_stamp(deserialize(self.data, self.kind))

    def load(self) -> np.ndarray:
        frame: Frame = decode(deserialize(self.data, self.kind), bits=self.bits)
        return frame.rgb()


def _at_most(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    scale = longest / max(height, width)
    return resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def _png(image: np.ndarray) -> bytes:
    """Losslessly, and quickly rather than small."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _read(source: str, folder: Path) -> Extraction:
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        start, end = content["span_ns"]
        length = max(1, end - start)
        frames = [
            ExtractedFrame(
                folder / entry["file"],
                source,
                entry["topic"],
                entry["recorded_ns"],
                entry["stamp_ns"],
                entry["hash"],
                min(1.0, (entry["recorded_ns"] - start) / length),
            )
            for entry in content["frames"]
        ]
        found = Extraction(source, frames, content["seen"], content["duplicates"], content["skipped"])
    except (KeyError, TypeError, ValueError) as error:
        raise FramesError(f"{folder / INDEX} is damaged ({error}); remove {folder}") from error
    if missing := [frame.path for frame in frames if not frame.path.is_file()]:
        raise FramesError(f"{missing[0]} is missing; remove {folder}, and its frames are decoded again")
    return found


def _folder(choice: Unlabelled, source: str) -> Path:
    """Of the cache: another one for another choice, and for a source that has changed."""
    path = Path(source)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    of_frames = ("topics", "every", "most", "distinct", "longest")
    made_of = [str(path.resolve()), state, VERSION, [getattr(choice, name) for name in of_frames]]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    return Path(choice.cache) / f"{path.resolve().stem}-{key}"


def _await(folder: Path) -> None:
    """Wait while another process fills the folder, until it is whole or nothing has come for PATIENCE."""
    since, state = time.monotonic(), 0
    while turn()[1] > 1 and not (folder / INDEX).is_file() and time.monotonic() - since < PATIENCE:
        now = os.stat(folder).st_mtime_ns if folder.exists() else 0
        if now != state:
            since, state = time.monotonic(), now
        time.sleep(0.2)
