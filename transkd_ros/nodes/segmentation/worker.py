"""The worker of the segmentation node: the threads on which frames become masks, and which open a failed engine again.

Callbacks leave the newest frame of each camera with it; it serves them in turn, or several that wait in one batch. A
frame is prepared, inferred and published. Each of these stages has one thread at a time in it, which leaves it when the
next is free, so that no frame overtakes another. There is one thread where the processor infers, and two where a device
of its own does: one prepares a frame, or publishes a mask, while the other waits for the device (see `pace.py`).
What happens to the pixels is in `transkd_ros.segmenter`, what a camera publishes and counts in `camera.py` and
`account.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from rclpy.node import Node
from sensor_msgs.msg import Image

from transkd_ros.cli import one_line
from transkd_ros.frames import Frame, FrameError, decode_compressed, decode_image
from transkd_ros.mailbox import Mailbox
from transkd_ros.nodes.segmentation.budget import FrameBudget
from transkd_ros.nodes.segmentation.camera import Camera
from transkd_ros.nodes.segmentation.engine import Engine
from transkd_ros.nodes.segmentation.pace import Pace
from transkd_ros.segmenter import EngineFailure, Inference, View
from transkd_ros.timing import Timings

FAILURES_IN_A_ROW = 3  # of the engine, after which it is opened again
BACK_OFF = (0.0, 1.0, 2.0, 4.0, 8.0)  # seconds before each attempt to open it; after the last it is given up
BUDGET_LOOK = 0.1  # seconds between two looks whether max_total_rate has changed
JOIN_LIMIT = 5.0  # seconds for the frame at work when the node is deactivated

T = TypeVar("T")


class Job(NamedTuple):
    """A frame at work: its header, what the network is to see of it, and when (s) its work began and it was decoded."""

    camera: Camera
    header: Any
    view: View
    began: float
    decoded: float


class Worker:
    """Runs from its making until `stop`. `on_broken` is called, in its thread, when the engine is given up."""

    def __init__(self, node: Node, engine: Engine, on_broken: Callable[[], None]) -> None:
        self.timings = Timings()
        self.problem = ""  # the engine's last one, until there is a mask again
        self.attempts = 0  # to open the engine since the last mask
        self.reopened = 0
        self.broken = False
        self._node, self._engine, self._on_broken = node, engine, on_broken
        self._failures = 0  # of the engine, in a row
        self._mailbox: Mailbox[tuple[Camera, Any]] = Mailbox()
        self._budget = FrameBudget()
        self._pace = Pace()
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._preparing, self._inferring, self._publishing = (threading.Lock() for _ in range(3))
        names = [f"segmentation worker {number + 1}" for number in range(engine.frames_at_work)]
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def put(self, camera: Camera, message: Any) -> None:
        """Leave a frame, in place of an older one that still waits."""
        if self._mailbox.put(camera.name, (camera, message)):
            camera.account.drop("superseded")

    def stop(self) -> None:
        """Take no more frames; those at work may be finished."""
        if not self._stopping.is_set():
            self._deadline = time.monotonic() + JOIN_LIMIT
            self._stopping.set()
            for camera, _ in self._mailbox.close():
                camera.account.drop("stopped")

    def join(self) -> bool:
        """Wait for the end, JOIN_LIMIT seconds from `stop` on at most; whether it has come."""
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def close_engine(self) -> None:
        """Close the engine: at once, or when an inference that does not end has ended."""
        if self.join():
            self._engine.close()
        else:
            late = (*(thread.join for thread in self._threads), self._engine.close)
            threading.Thread(target=lambda: [step() for step in late], name="late end", daemon=True).start()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Take the next frames through all stages; False at the end."""
        stage = self._preparing
        stage.acquire()
        try:
            frames, began = self._next(), time.monotonic()
            tried = [self._try([camera], partial(self._prepare, camera, message)) for camera, message in frames]
            self._pace.prepared(time.monotonic() - began)
            stage = _enter(self._inferring, stage)
            jobs = [job for job in tried if job and self._try([job.camera], partial(self._is_fresh, *job[:2]))]
            answers = self._try([job.camera for job in jobs], partial(self._infer, jobs)) if jobs else None
            going_on = bool(frames) and self._node.context.ok() and self._engine_works()
            stage = _enter(self._publishing, stage)
            for job, answer in zip(jobs, answers or (), strict=False):
                self._try([job.camera], partial(self._publish, job, answer))
            return going_on and self._node.context.ok()  # else a signal has ended ROS
        finally:
            stage.release()

    def _try(self, cameras: list[Camera], step: Callable[[], T]) -> T | None:
        """What comes of a step with a frame of each of these cameras; None if it failed, which is counted."""
        try:
            return step()
        except FrameError as error:
            for camera in cameras:
                camera.account.dropped(error.cause, str(error))
        except EngineFailure as error:
            self._failures += 1
            self.problem = one_line(error)
            for camera in cameras:
                camera.account.dropped("engine", self.problem)
        except Exception as error:  # ROS's, or ours; the next frame may well be fine
            if self._node.context.ok():  # else a signal has ended ROS while we were publishing
                for camera in cameras:
                    camera.account.dropped("internal", f"{type(error).__name__}: {one_line(error)}")
        return None

    def _next(self) -> list[tuple[Camera, Any]]:
        """The next frames, which are the newest when the budget of all cameras allows one; none at the end."""
        while pause := self._budget.wait(time.monotonic(), self._rate()):
            if self._stopping.wait(min(pause, BUDGET_LOOK)):
                return []
        self._pace.wait()
        items = self._mailbox.take(most=1 if self._rate() else self._engine.batch)  # a budget grants one at a time
        for _ in items:
            self._budget.spend(time.monotonic(), self._rate())
        return [frame for _, frame in items]

    def _rate(self) -> float:
        return float(self._node.get_parameter("max_total_rate").value)

    def _decode(self, camera: Camera, message: Any) -> Frame:
        """Raises FrameError."""
        bits = camera.bits.bits
        if isinstance(message, Image):
            frame = decode_image(message, camera.bits)
        else:  # decoded no larger than the network needs, unless its pixels are to be shown, or cut out of
            all_pixels = camera.has_viewer() or camera.region
            size = None if all_pixels else self._engine.runtime.input_size
            limit = self._node.get_parameter("max_compressed_pixels").value
            frame = decode_compressed(message, size, camera.bits, limit)
        if camera.bits.bits != bits:
            self._node.get_logger().info(f"{camera.name}: samples of 16 bits use {camera.bits.bits}")
        return frame

    def _reopen(self) -> bool:
        """Open the engine again; False where that is not wanted, or was in vain too often."""
        if self._node.get_parameter("on_engine_failure").value == "exit":
            return False
        log = self._node.get_logger()
        log.error(f"the engine failed {self._failures} times in a row: {self.problem}")
        while self.attempts < len(BACK_OFF):
            if self._stopping.wait(BACK_OFF[self.attempts]):
                return True
            self.attempts += 1
            try:
                self._engine.reopen()
            except Exception as error:  # whatever its library throws
                self.problem = one_line(error)
                log.error(f"the engine cannot be opened again, attempt {self.attempts}: {self.problem}")
            else:
                self._failures = 0
                self.reopened += 1
                log.info(f"the engine is open again: {self._engine.runtime.reason}")
                return True
        return False

    def _engine_works(self) -> bool:
        """Open an engine that has failed too often again; False once it is given up."""
        if not self.broken and self._failures >= FAILURES_IN_A_ROW and not self._reopen():
            self.broken = True
            self._on_broken()
        return not self.broken

    def _is_fresh(self, camera: Camera, header: Any) -> bool:
        """Whether a frame is not too old by now; one that is is counted."""
        limit = self._node.get_parameter("max_frame_age").value
        age = camera.account.age(header.stamp)
        if not limit or age is None or age <= limit:
            return True
        camera.account.stale(age, limit)
        return False

    def _prepare(self, camera: Camera, message: Any) -> Job | None:
        """None for a frame that is too old. Raises FrameError."""
        if not self._is_fresh(camera, message.header):
            return None
        began = time.perf_counter()
        frame = self._decode(camera, message)
        decoded = time.perf_counter()
        view = self._engine.segmenter.view(frame, camera.has_confidence_listener(), camera.region)
        return Job(camera, message.header, view, began, decoded)

    def _infer(self, jobs: list[Job]) -> list[Inference]:
        """Raises EngineFailure."""
        if self.broken or not self._engine.is_open:  # it failed while these frames waited for it
            raise EngineFailure(self.problem)
        self._pace.begin_inference(time.monotonic())
        try:
            answers = self._engine.segmenter.infer([job.view for job in jobs])
        finally:
            self._pace.end_inference(time.monotonic())
        self._failures = self.attempts = 0
        self.problem = ""
        return answers

    def _publish(self, job: Job, inference: Inference) -> None:
        segmentation = self._engine.segmenter.place(job.view, inference)
        account, start = job.camera.account, time.perf_counter()
        published = account.masks
        try:
            job.camera.publish(job.header, job.view.frame, segmentation)
        except Exception as error:
            if account.masks == published or not self._node.context.ok():
                raise
            account.problem("internal", f"{type(error).__name__}: {one_line(error)}")  # of what comes beside the mask
        end = time.perf_counter()
        stages = {"decode": job.decoded - job.began, **segmentation.timings, "publish": end - start}
        for stage, seconds in (stages | {"total": end - job.began}).items():
            self.timings.add(stage, seconds)


def _enter(stage: threading.Lock, held: threading.Lock) -> threading.Lock:
    """Leave one stage for the next, once that is free."""
    stage.acquire()
    held.release()
    return stage
