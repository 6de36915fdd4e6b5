"""rosbag2 bags of camera frames: read, written, and made from a folder of images. No ROS installation needed.

Storage is sqlite3 or MCAP, through the rosbags library; messages are its dataclasses, with the attributes of
the sensor_msgs ones, so `transkd_ros.frames` decodes both. Replaying a bag into a ROS graph is not done here.

    python -m transkd_ros.bags from-images IMAGES --labels LABELS --output BAG --rate 1
    python -m transkd_ros.bags info BAG
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore

from transkd_ros import cli, image_folder

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_CAMERA = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)

# The image messages are the same, byte for byte and in their type hash, from Humble to Kilted.
_STORE = get_typestore(Stores.ROS2_HUMBLE)
# Version 9 writes the QoS profiles as a YAML list, which Humble (version 5) cannot parse; 8 is read by all.
_METADATA_VERSION: Literal[8] = 8


class BagError(ValueError):
    """A bag that cannot be read or written; the text names the bag and what to do, in one line."""


# ------------------------------------------------------------------------------------------------ messages


def image_message(pixels: np.ndarray, encoding: str, stamp_ns: int, frame_id: str = "camera") -> Any:
    """A sensor_msgs/Image of (H, W[, C]) uint8 pixels, e.g. `bgr8`, `rgb8`, `mono8`."""
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(-1)
    return _STORE.types[IMAGE](
        header=_header(stamp_ns, frame_id), height=height, width=width, encoding=encoding, is_bigendian=0,
        step=data.size // height, data=data,
    )  # fmt: skip


def compressed_message(data: bytes, image_format: str, stamp_ns: int, frame_id: str = "camera") -> Any:
    """A sensor_msgs/CompressedImage of the bytes of an image file; `image_format` is `jpeg` or `png`."""
    return _STORE.types[COMPRESSED_IMAGE](
        header=_header(stamp_ns, frame_id), format=image_format, data=np.frombuffer(data, np.uint8)
    )


def header_stamp(message: Any) -> int:
    """The header's stamp in ns."""
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def serialize(message: Any, stamp_ns: int | None = None) -> bytes:
    """The message as CDR, which an rclpy publisher takes as it is; `stamp_ns` goes into its header."""
    if stamp_ns is not None:
        message.header = _header(stamp_ns, message.header.frame_id)
    return bytes(_STORE.serialize_cdr(message, message.__msgtype__))


def deserialize(data: bytes, kind: str) -> Any:
    """The message of the CDR bytes of a recorded or raw one; `kind` is its type, e.g. IMAGE."""
    return _STORE.deserialize_cdr(data, kind)


def _header(stamp_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = _STORE.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return _STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


# ------------------------------------------------------------------------------------------------ reading


class BagReader:
    """An open bag: a folder with metadata.yaml, or a single .mcap or .db3 file. Closed at the end of `with`.

    Raises BagError if it is missing, not a bag, empty, or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._reader = self._open()
        if not self._reader.message_count:
            self.close()
            raise BagError(f"{self.path}: the bag is empty, it holds no messages")

    @property
    def topics(self) -> dict[str, str]:
        """Topic name to message type, e.g. `sensor_msgs/msg/Image`."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    @property
    def counts(self) -> dict[str, int]:
        """Topic name to number of messages."""
        return {topic: info.msgcount for topic, info in self._reader.topics.items()}

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        # rosbags counts to one nanosecond past the last message.
        return (self._reader.duration - 1) / 1e9

    @property
    def start(self) -> int:
        """The recorded stamp of the first message, in ns."""
        return self._reader.start_time

    def image_topics(self) -> list[str]:
        """Names of the topics that hold Image or CompressedImage messages, label masks among them, sorted."""
        return sorted(name for name, kind in self.topics.items() if kind in (IMAGE, COMPRESSED_IMAGE))

    def camera_topics(self) -> list[str]:
        """The image topics without labels and masks; of a camera that was recorded both ways, the raw one."""
        frames = [
            topic
            for topic in self.image_topics()
            if not re.search(r"/ground_truth(/compressed)?$|/segmentation/", topic)
        ]
        return [topic for topic in frames if topic.removesuffix("/compressed") not in set(frames) - {topic}]

    def frames(self, topic: str, start: int | None = None, stop: int | None = None) -> Iterator[tuple[int, Any]]:
        """(recorded stamp in ns, message) of an image topic, in order, read one by one as they are asked for.

        `start` and `stop` (ns, half open) bound the stamps. Raises BagError if the bag has no such image
        topic, or on reaching a damaged part.
        """
        images = self.image_topics()
        if topic not in images:
            there = self.topics.get(topic)
            what = f"topic {topic} is a {there}, not an image" if there else f"no topic {topic}"
            raise BagError(f"{self.path}: {what}; its image topics: {', '.join(images) or 'none'}")
        return self._frames([c for c in self._reader.connections if c.topic == topic], start, stop)

    def messages(self, topics: Collection[str], start: int | None = None) -> Iterator[tuple[int, str, bytes]]:
        """(recorded stamp in ns, topic, CDR bytes) of all messages on `topics`, whatever their types, one by one.

        In the order in which they were recorded, from `start` (ns) on. Raises BagError if the bag lacks a topic,
        or on reaching a damaged part.
        """
        if missing := sorted(set(topics) - set(self.topics)):
            raise BagError(f"{self.path}: no topic {', '.join(missing)}; there are: {', '.join(sorted(self.topics))}")
        return self._messages([c for c in self._reader.connections if c.topic in topics], start, None)

    def _frames(self, connections: list[Connection], start: int | None, stop: int | None) -> Iterator[tuple[int, Any]]:
        for stamp_ns, topic, data in self._messages(connections, start, stop):
            try:
                message = deserialize(data, self.topics[topic])
            except Exception as error:
                raise self._damaged(error) from error
            yield stamp_ns, message

    def _messages(
        self, connections: list[Connection], start: int | None, stop: int | None
    ) -> Iterator[tuple[int, str, bytes]]:
        messages = self._reader.messages(connections, start, stop)
        while True:
            try:
                connection, stamp_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:
                raise self._damaged(error) from error
            yield stamp_ns, connection.topic, data

    def _open(self) -> Reader:
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise BagError(
                f"{self.path}: not a bag, the folder has no metadata.yaml "
                "(`ros2 bag reindex` repairs a recording that was killed)"
            )
        if self.path.is_file() and self.path.suffix not in (".mcap", ".db3"):
            raise BagError(f"{self.path}: not a bag (expected a folder with metadata.yaml, a .mcap or a .db3 file)")
        try:
            for file in [self.path] if self.path.is_file() else self.path.glob("*.db3"):
                if file.suffix == ".db3":
                    _check_length(file)
            reader = Reader(self.path)
            reader.open()
        except Exception as error:
            # On a damaged file rosbags fails where its parser stumbles: struct, apsw, type error, assertion.
            raise self._damaged(error) from error
        return reader

    def _damaged(self, error: Exception) -> BagError:
        return BagError(f"{self.path}: cannot be read, damaged or cut short ({cli.one_line(error)})")

    def close(self) -> None:
        """Close the bag; a second time does nothing."""
        if self._reader.is_open:
            self._reader.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_length(file: Path) -> None:
    """Refuse a cut-short sqlite3 file: SQLite reads the missing end of a page as zeros, without an error.

    The header holds the page size at byte 16 (1 means 65536) and the number of pages at byte 28.
    """
    with file.open("rb") as opened:
        header = opened.read(32)
    page_size, pages = struct.unpack_from(">H10xI", header, 16)
    expected = (65536 if page_size == 1 else page_size) * pages
    if header.startswith(b"SQLite format 3") and file.stat().st_size < expected:
        raise ValueError(f"{file.name} has {file.stat().st_size} of {expected} bytes")


# ------------------------------------------------------------------------------------------------ writing


class BagWriter:
    """A new bag (a folder), complete or not there: written in a hidden one and renamed when `with` ends.

    An exception inside `with` leaves nothing behind, and an existing bag as it was. `ros2 bag` of Humble to
    Kilted opens it. Raises BagError if `path` exists (unless `overwrite`) or the disk refuses.
    """

    def __init__(self, path: Path | str, storage: str = "mcap", overwrite: bool = False) -> None:
        self.path = Path(os.path.abspath(path))
        if storage not in STORAGES:
            raise BagError(f"unknown bag storage {storage!r}: one of {', '.join(STORAGES)}")
        if self.path.exists() and not overwrite:
            raise BagError(f"{path}: exists already, not overwritten")
        self._storage = STORAGES[storage]
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        except OSError as error:
            raise self._refused(error) from error
        # The storage file is named after its folder, so the folder has its final name from the start.
        self._writer = Writer(self._folder / self.path.name, version=_METADATA_VERSION, storage_plugin=self._storage)
        try:
            self._writer.open()
        except (OSError, sqlite3.Error) as error:
            self._discard()
            raise self._refused(error) from error
        return self

    def write(self, topic: str, message: Any, stamp_ns: int | None = None) -> None:
        """Append a message (see `image_message`), recorded at `stamp_ns`, by default its header's stamp."""
        try:
            connection = self._connections.get(topic)
            if connection is None:
                connection = self._writer.add_connection(topic, message.__msgtype__, typestore=_STORE)
                self._connections[topic] = connection
            recorded = header_stamp(message) if stamp_ns is None else stamp_ns
            self._writer.write(connection, recorded, serialize(message))
        except (OSError, sqlite3.Error, WriterError) as error:
            raise self._refused(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._writer.close()
                if self.path.exists():
                    self.path.rename(self._folder / "replaced")
                (self._folder / self.path.name).rename(self.path)
        except (OSError, sqlite3.Error) as refusal:
            raise self._refused(refusal) from refusal
        finally:
            self._discard()

    def _discard(self) -> None:
        with suppress(Exception):
            self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _refused(self, error: Exception) -> BagError:
        return BagError(f"{self.path}: cannot be written ({cli.one_line(error)})")


# ------------------------------------------------------------------------------------------------ commands


def from_images(
    images: Path, output: Path, labels: Path | None = None, *, rate: float = 1.0, storage: str = "mcap",
    camera: str = "camera", raw: bool = False, overwrite: bool = False,
) -> int:  # fmt: skip
    """Write the frames of a folder, in name order and `rate` Hz apart, as a bag; returns how many.

    JPEG and PNG files are copied as they are to `/<camera>/image_raw/compressed`; with `raw` every image is
    decoded to bgr8 on `/<camera>/image_raw`. Labels go to `/<camera>/ground_truth` as mono8 class ids with
    the stamps of their frames. The first frame is stamped 1 s. Raises BagError or ImageFolderError.
    """
    if not _CAMERA.fullmatch(camera):
        raise BagError(f"camera '{camera}' is not a ROS name (letters, digits, _ and /, e.g. front/left)")
    frames = image_folder.list_frames(images, labels)
    topic = f"/{camera}/image_raw" if raw else f"/{camera}/image_raw/compressed"
    with BagWriter(output, storage, overwrite) as bag:
        for index, (image, label) in enumerate(frames):
            stamp_ns = 1_000_000_000 + round(index * 1e9 / rate)
            data = image.read_bytes()
            pixels = image_folder.decode_image(data, image)
            if raw:
                bag.write(topic, image_message(pixels, "bgr8", stamp_ns, camera))
            elif image_format := image_folder.COMPRESSED_FORMATS.get(image.suffix.lower()):
                bag.write(topic, compressed_message(data, image_format, stamp_ns, camera))
            else:
                raise BagError(f"{image}: only JPEG and PNG travel compressed; use --raw for other formats")
            if label:
                mask = image_folder.read_label(label, pixels.shape[:2])
                bag.write(f"/{camera}/ground_truth", image_message(mask, "mono8", stamp_ns, camera))
    return len(frames)


def info(path: Path) -> str:
    """The bag's topics, types, counts and duration as text."""
    with BagReader(path) as bag:
        counts, topics = bag.counts, bag.topics
        lines = [f"{path}: {sum(counts.values())} messages, {bag.duration:.3f} s"]
    width = max(len(topic) for topic in topics)
    return "\n".join([*lines, *(f"  {t:{width}}  {topics[t]:32} {counts[t]:6}" for t in sorted(topics))])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transkd_ros.bags", description="Make and inspect rosbag2 bags of camera frames."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("from-images", help="make a bag of a folder of frames")
    make.add_argument("images", type=Path, help="folder of frames, taken in name order")
    make.add_argument("--labels", type=Path, help="folder of single-channel label masks of the same names")
    make.add_argument("--output", type=Path, required=True, help="the bag, a folder that does not exist yet")
    make.add_argument("--rate", type=cli.positive_float, default=1.0, help="frames per second (default 1)")
    make.add_argument("--storage", choices=tuple(STORAGES), default="mcap", help="default mcap")
    make.add_argument("--camera", default="camera", help="namespace of the topics (default camera)")
    make.add_argument("--raw", action="store_true", help="decode to Image bgr8, do not copy JPEG and PNG")
    make.add_argument("--overwrite", action="store_true", help="replace an existing bag")
    show = commands.add_parser("info", help="list topics, counts and duration")
    show.add_argument("bag", type=Path)
    return parser


def main() -> None:
    args = _parser().parse_args()
    if args.command == "info":
        print(info(args.bag))
        return
    count = from_images(
        args.images, args.output, args.labels, rate=args.rate, storage=args.storage,
        camera=args.camera.strip("/"), raw=args.raw, overwrite=args.overwrite,
    )  # fmt: skip
    print(f"{args.output}: {count} frames")


if __name__ == "__main__":
    cli.run(main, BagError, image_folder.ImageFolderError)
