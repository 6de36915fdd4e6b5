"""The segmentation node: camera frames in, masks of class ids out, as a managed (lifecycle) node.

    unconfigured --configure--> inactive --activate--> active
    no model                    model loaded           subscribed, worker running

Subscription callbacks only leave the newest frame in a mailbox; one worker thread serves the cameras in turn. What
the parameters mean is in `parameters.py`, topics and counters of a camera in `camera.py`, the work on the pixels in
`transkd_ros.segmenter`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from transkd_ros.cli import one_line
from transkd_ros.frames import FrameError, decode_compressed, decode_image
from transkd_ros.mailbox import Mailbox
from transkd_ros.model.bundle import Bundle, load_bundle
from transkd_ros.model.engines import open_runtime
from transkd_ros.nodes import process
from transkd_ros.nodes.options import declare, read
from transkd_ros.nodes.reliability import ImageSubscription
from transkd_ros.nodes.segmentation.camera import Camera
from transkd_ros.nodes.segmentation.parameters import OPTIONS, refusal
from transkd_ros.resources import find_model
from transkd_ros.segmenter import Segmenter
from transkd_ros.timing import Timings, diagnostic_name, diagnostic_status

FAILURES_IN_A_ROW = 3  # of the engine, after which it is called broken
EXIT_GRACE = 1.2  # seconds for an orderly end after a signal


class SegmentationNode(LifecycleNode):
    """Keyword arguments are those of rclpy's Node. Raises ParameterException for an unacceptable override."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("segmentation_node", **kwargs)
        self._segmenter: Segmenter | None = None  # from configure to cleanup
        self._bundle: Bundle | None = None
        self._cameras: list[Camera] = []
        self._worker: threading.Thread | None = None  # from activate to deactivate
        self._mailbox: Mailbox[tuple[Camera, Any]] = Mailbox()
        self._images: dict[str, ImageSubscription] = {}  # by camera, from activate to deactivate
        self._timings = Timings()
        self._failures = 0  # internal errors since the last mask
        self._problem = ""  # what made configure fail, or the engine's last error

        self.add_on_set_parameters_callback(self._check_parameters)
        declare(self, OPTIONS)
        self._settings = read(self, OPTIONS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady, not the node's clock: simulated time stands still until a simulator runs.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self._settings.diagnostics_period, self._publish_diagnostics, clock=steady)
        if self._settings.autostart:
            self._autostart = self.create_timer(0.0, self._start_by_itself, clock=steady)

    # ---- lifecycle: what each transition does ----------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._load()
        except Exception as error:  # whatever it is, rclpy would swallow it
            self._problem = one_line(error)
            self.get_logger().error(f"cannot configure: {self._problem}")
            self._unload()
            return TransitionCallbackReturn.FAILURE
        self._problem = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        self._start()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unload()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self._unload()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self._unload()
        return super().on_error(state)

    def destroy_node(self) -> None:
        self._stop()
        self._unload()
        super().destroy_node()

    def _start_by_itself(self) -> None:
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # ---- what the transitions are made of --------------------------------------------------------

    def _load(self) -> None:
        settings = self._settings = read(self, OPTIONS)
        bundle = self._bundle = load_bundle(find_model(settings.model))
        input_size = tuple(settings.input_size) if any(settings.input_size) else None
        runtime = open_runtime(
            bundle,
            settings.engine,
            settings.device,
            settings.precision,
            input_size,
            settings.threads,
            want_confidence=settings.confidence,
        )
        names = list(bundle.manifest.labels.names)
        height, width = runtime.input_size
        self.get_logger().info(
            f"model {bundle.manifest.name}, {len(names)} classes, input {width}x{height}, {runtime.reason}"
        )
        self._segmenter = Segmenter(runtime, settings.mask_size)
        self._timings = Timings()
        for name in settings.cameras:
            self._cameras.append(Camera(self, name, settings, bundle))
        description = "The model's classes in the order of their ids. Read only."
        self.declare_parameter("class_names", names, ParameterDescriptor(description=description))

    def _unload(self) -> None:
        if self.has_parameter("class_names"):
            self.undeclare_parameter("class_names")
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        if self._segmenter:
            self._segmenter.runtime.close()
        self._segmenter = self._bundle = None

    def _start(self) -> None:
        self._mailbox = Mailbox()
        self._failures = 0
        compressed = self._settings.image_transport == "compressed"
        message_type = CompressedImage if compressed else Image
        for camera in self._cameras:
            topic = f"{camera.name}/image_raw" + ("/compressed" if compressed else "")
            self._images[camera.name] = ImageSubscription(
                self,
                message_type,
                topic,
                partial(self._on_frame, camera),
                self._settings.qos_reliability,
                self._settings.qos_depth,
                on_lost=camera.lost,
            )
        self._worker = threading.Thread(
            target=self._work, args=(self._segmenter,), name="segmentation worker", daemon=True
        )
        self._worker.start()

    def _stop(self) -> None:
        """Ends when the worker has finished the frame it is at."""
        for images in self._images.values():
            images.destroy()
        self._images.clear()
        self._mailbox.close()
        if self._worker:
            self._worker.join()
            self._worker = None

    # ---- frames ----------------------------------------------------------------------------------

    def _on_frame(self, camera: Camera, message: Any) -> None:
        camera.received(message.header.stamp)
        if self._mailbox.put(camera.name, (camera, message)):
            camera.drops["superseded"] += 1

    def _work(self, segmenter: Segmenter) -> None:
        while item := self._mailbox.take():
            _, (camera, message) = item
            try:
                self._segment(segmenter, camera, message)
            except FrameError as error:
                camera.dropped(error.cause, str(error))
            except Exception as error:  # the engine's or ROS's; the next frame may well be fine
                if not self.context.ok():  # a signal has ended ROS while we were publishing
                    return
                self._failures += 1
                self._problem = one_line(error)
                camera.dropped("internal", f"{type(error).__name__}: {self._problem}")

    def _segment(self, segmenter: Segmenter, camera: Camera, message: Any) -> None:
        limit = self.get_parameter("max_frame_age").value
        age = camera.age(message.header.stamp)
        if limit and age is not None and age > limit:
            camera.dropped("stale", f"it is {age:.3f} s old, max_frame_age is {limit} s")
            return

        start = time.perf_counter()
        if isinstance(message, Image):
            frame = decode_image(message)
        else:  # decoded no larger than the network needs, unless its pixels are to be shown
            frame = decode_compressed(message, None if camera.has_viewer() else segmenter.runtime.input_size)
        decoded = time.perf_counter()
        segmentation = segmenter(frame, camera.has_confidence_listener())
        segmented = time.perf_counter()
        alpha, legend = (self.get_parameter(f"overlay_{name}").value for name in ("alpha", "legend"))
        camera.publish(message.header, frame, segmentation, alpha, legend)
        end = time.perf_counter()
        self._failures = 0

        stages = {"decode": decoded - start, **segmentation.timings, "publish": end - segmented, "total": end - start}
        for stage, seconds in stages.items():
            self._timings.add(stage, seconds)

    # ---- parameters and diagnostics --------------------------------------------------------------

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        for parameter in changes:
            if parameter.name == "class_names":
                fixed = self._bundle is not None and list(parameter.value) == list(self._bundle.manifest.labels.names)
                reason = "" if fixed else "class_names is read only: it comes from the model"
            else:
                reason = refusal(parameter, configured=self._segmenter is not None)
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray(status=[self._status()])
        for camera in self._cameras if self._worker else []:
            message.status.append(camera.status(self._images[camera.name].reliability.name.lower()))
        for status in message.status:
            status.hardware_id = self._segmenter.runtime.device if self._segmenter else "none"
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _status(self) -> DiagnosticStatus:
        """The state of the node, what runs where, and the time of each stage over the last frames of all cameras."""
        level, text = DiagnosticStatus.OK, "active"
        if not self._worker:
            state = "inactive" if self._segmenter else "unconfigured"
            level, text = DiagnosticStatus.ERROR, f"{state}: {self._problem}" if self._problem else state
        elif self._failures >= FAILURES_IN_A_ROW:
            level, text = DiagnosticStatus.ERROR, f"failed {self._failures} times in a row: {self._problem}"
        values: dict[str, Any] = {"model": self._settings.model}
        if self._segmenter:
            runtime = self._segmenter.runtime
            height, width = runtime.input_size
            values |= {"engine": runtime.engine, "device": runtime.device, "precision": runtime.precision}
            values["input size"] = f"{width}x{height}"
        for stage, times in self._timings.snapshot().items():
            values |= {f"{stage} {key} (ms)": times[key] for key in ("p50", "p95", "p99")}
        return diagnostic_status(f"{diagnostic_name(self)}: node", level, text, values)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM (exit code 0); 2 for arguments or parameters it cannot start with."""

    def make() -> SegmentationNode:
        threading.Thread(target=_end_in_time, args=(rclpy.get_default_context(),), daemon=True).start()
        return SegmentationNode()

    return process.run(make, args)


def _end_in_time(context: Context) -> None:
    """End the process soon after ROS has, even while an engine loads or infers, which nothing can interrupt."""
    while context.ok():
        time.sleep(0.2)
    time.sleep(EXIT_GRACE)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
