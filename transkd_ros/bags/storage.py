"""rosbag2 bags read and written, sqlite3 and MCAP, through the rosbags library: no ROS installation needed.

What the messages are is in `messages`; replaying a bag into a ROS graph is not done here.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader, StoragePlugin, Writer, WriterError

from transkd_ros import cli
from transkd_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, STORE, deserialize, header_stamp, serialize

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# Version 9 writes the QoS profiles as a YAML list, which Humble (version 5) cannot parse; 8 is read by all.
_METADATA_VERSION: Literal[8] = 8
_UNLIMITED = QosTime(0, 0)
_LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, _UNLIMITED, _UNLIMITED,
    QosLiveliness.AUTOMATIC, _UNLIMITED, avoid_ros_namespace_conventions=False,
)  # fmt: skip


class BagError(ValueError):
    """A bag that cannot be read or written; the text names the bag and what to do, in one line."""


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
    def latched_topics(self) -> set[str]:
        """Names of the topics whose last message was there for late subscribers when they were recorded."""
        offers = ((c.topic, getattr(c.ext, "offered_qos_profiles", ())) for c in self._reader.connections)
        return {t for t, offered in offers if any(q.durability == QosDurability.TRANSIENT_LOCAL for q in offered)}

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

    def chosen_topics(self, asked: Collection[str] | None, but: str | None = None) -> list[str]:
        """The image topics that are `asked` for, else all cameras `but` one topic.

        Raises BagError for one that the bag lacks or that holds no images, and where it has no camera.
        """
        if asked:
            for topic in asked:
                self.frames(topic)  # raises now what it would raise later
            return list(asked)
        if not (cameras := [topic for topic in self.camera_topics() if topic != but]):
            raise BagError(
                f"{self.path}: no camera topic; its image topics: {', '.join(self.image_topics()) or 'none'}"
            )
        return cameras

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
        read = Counter[str]()
        while True:
            try:
                connection, stamp_ns, data = next(messages)
            except StopIteration:
                break
            except Exception as error:
                raise self._damaged(error) from error
            read[connection.topic] += 1
            yield stamp_ns, connection.topic, data
        for topic in {it.topic for it in connections} if start is stop is None else ():
            if read[topic] < self.counts[topic]:  # rosbags passes over some damaged parts without a word
                raise BagError(
                    f"{self.path}: damaged, only {read[topic]} of {self.counts[topic]} messages of {topic} can be read"
                )

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

    def write(self, topic: str, message: Any, stamp_ns: int | None = None, latched: bool = False) -> None:
        """Append a message (see `image_message`), recorded at `stamp_ns`, by default its header's stamp.

        A `latched` topic is replayed with durability transient local, so that late subscribers hear its message.
        """
        try:
            connection = self._connections.get(topic)
            if connection is None:
                offered = [_LATCHED] if latched else []
                connection = self._writer.add_connection(
                    topic, message.__msgtype__, typestore=STORE, offered_qos_profiles=offered
                )
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
