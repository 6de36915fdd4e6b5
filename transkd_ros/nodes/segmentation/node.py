"""The segmentation node: camera frames in, masks of class ids out, as a managed (lifecycle) node.

    unconfigured --configure--> inactive --activate--> active
    no model                    model loaded           subscribed, worker running

What transitions, parameters and the diagnostics of the whole node do is here. Parameters are described in
`parameters.py`; a frame's way is `worker.py`, with the engine of `engine.py` and the topics of `camera.py`; what became
of it is in `account.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool

from transkd_ros.cli import one_line
from transkd_ros.model import memory
from transkd_ros.nodes import process
from transkd_ros.nodes.managed import ManagedNode
from transkd_ros.nodes.options import declare, read
from transkd_ros.nodes.qos_overrides import qos_overrides
from transkd_ros.nodes.reliability import ImageSubscription
from transkd_ros.nodes.segmentation.camera import Camera
from transkd_ros.nodes.segmentation.camera_info import info_topic
from transkd_ros.nodes.segmentation.engine import Engine
from transkd_ros.nodes.segmentation.parameters import OPTIONS, CameraSource, camera_sources, refusal
from transkd_ros.nodes.segmentation.worker import BACK_OFF, Worker
from transkd_ros.nodes.timers import steady_timer
from transkd_ros.timing import diagnostic_name, diagnostic_status, latency_values

EXIT_GRACE = 1.2  # seconds for an orderly end after a signal, even while an engine loads or infers


class SegmentationNode(ManagedNode):
    """Keyword arguments are those of rclpy's Node. Raises ParameterException for an unacceptable override."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("segmentation_node", **kwargs)
        self._engine: Engine | None = None  # from configure to cleanup
        self._loaded: Engine | Exception | None = None  # made for the configure that is under way
        self._cameras: list[Camera] = []
        self._worker: Worker | None = None  # from activate to deactivate
        self._images: dict[str, ImageSubscription] = {}  # by camera, from activate to deactivate
        self._infos: list[ImageSubscription] = []  # of their calibrations, likewise
        self._enabled = True  # by the service
        self._problem = ""  # why there is no model, or why it does not run

        self.add_on_set_parameters_callback(self._check_parameters)
        declare(self, OPTIONS)
        self._settings = read(self, OPTIONS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady_timer(self, self._settings.diagnostics_period, self._publish_diagnostics)
        self.create_service(SetBool, "~/enable", self._on_enable)
        if self._settings.autostart:
            self._autostart = steady_timer(self, 0.0, self._start_by_itself, callback_group=self.transitions)

    # ---- lifecycle: what each transition does ----------------------------------------------------

    def prepare(self, transition: str) -> Callable[[], object] | None:
        """Loading a model and waiting for the frame at work take long."""
        if transition == "configure":
            self._settings = read(self, OPTIONS)
            return partial(self._load, self._settings)
        if transition == "activate" and self._engine and not self._engine.is_open:  # it failed before deactivate came
            return self._reopen
        if self._worker and transition in ("deactivate", "shutdown"):
            self._stop_hearing()
            return self._worker.join
        return None

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._loaded is None:  # trigger_configure() was called, not the service
            self._settings = read(self, OPTIONS)
            self._load(self._settings)
        loaded, self._loaded = self._loaded, None
        try:
            if not isinstance(loaded, Engine):
                raise loaded or RuntimeError("no model was loaded")
            self._open_topics(loaded)
        except Exception as error:  # whatever it is, rclpy would swallow it
            self._problem = one_line(error)
            self.get_logger().error(f"cannot configure: {self._problem}")
            self._unload()
            return TransitionCallbackReturn.FAILURE
        self._problem = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        try:
            self._start()
        except Exception as error:  # rclpy would swallow it
            self._problem = one_line(error)
            self.get_logger().error(f"cannot activate: {self._problem}")
            self._stop()
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self._problem = ""
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """ERROR, and so unconfigured again, where the engine is given up or its inference does not end."""
        return super().on_deactivate(state) if self._stop() else TransitionCallbackReturn.ERROR

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

    async def _start_by_itself(self) -> None:
        self.destroy_timer(self._autostart)
        await self.bring_up()

    # ---- what the transitions are made of --------------------------------------------------------

    def _load(self, settings: SimpleNamespace) -> None:
        """In a thread of its own; on_configure finds what came of it."""
        try:
            camera_sources(settings)  # may refuse them, before a model is loaded in vain
            self._loaded = Engine(settings, self.get_logger().info)
        except Exception as error:  # whatever an engine's library throws
            self._loaded = error

    def _reopen(self) -> None:
        """In a thread of its own; where it fails, on_activate tries again and says why."""
        assert self._engine
        with suppress(Exception):
            self._engine.reopen()

    def _open_topics(self, engine: Engine) -> None:
        self._engine = engine
        manifest, runtime = engine.bundle.manifest, engine.runtime
        names = list(manifest.labels.names)
        height, width = runtime.input_size
        self.get_logger().info(f"model {manifest.name}, {len(names)} classes, input {width}x{height}, {runtime.reason}")
        for source in camera_sources(self._settings):
            qos_overrides(self, "subscription", self._image_topic(source))  # refused now, not by activate
            self._cameras.append(Camera(self, source, self._settings, engine.bundle))
        description = "The model's classes in the order of their ids. Read only."
        self.declare_parameter("class_names", names, ParameterDescriptor(description=description))

    def _unload(self) -> None:
        if self.has_parameter("class_names"):
            self.undeclare_parameter("class_names")
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        if self._worker:  # it has not ended
            self._worker.close_engine()
        elif self._engine:
            self._engine.close()
        self._engine = self._worker = None

    def _start(self) -> None:
        assert self._engine
        if not self._engine.is_open:
            self._engine.reopen()
        self._worker = Worker(self, self._engine, on_broken=self._on_broken)
        compressed = self._settings.image_transport == "compressed"
        for camera in self._cameras:
            camera.account.begin()
            self._images[camera.name] = ImageSubscription(
                self,
                CompressedImage if compressed else Image,
                self._image_topic(camera.source),
                partial(self._on_frame, camera),
                self._settings.qos_reliability,
                self._settings.qos_depth,
                on_lost=camera.account.lost,
            )
            self._infos.append(
                ImageSubscription(
                    self,
                    CameraInfo,
                    info_topic(camera.source.topic),
                    partial(setattr, camera, "info"),
                    self._settings.qos_reliability,
                    depth=1,
                )
            )

    def _image_topic(self, source: CameraSource) -> str:
        return source.topic + ("/compressed" if self._settings.image_transport == "compressed" else "")

    def _stop_hearing(self) -> None:
        for subscription in (*self._images.values(), *self._infos):
            subscription.destroy()
        self._images.clear()
        self._infos.clear()
        if self._worker:
            self._worker.stop()

    def _stop(self) -> bool:
        """End the worker; False if it does not end in time, or the engine was given up."""
        self._stop_hearing()
        if not self._worker:
            return True
        if not self._worker.join():
            self._problem = "the inference does not end"
            self.get_logger().error(f"{self._problem}; the model is left to it")
            return False
        broken, problem = self._worker.broken, self._worker.problem
        self._worker = None
        memory.give_back()
        if broken:
            self._problem = f"the engine failed: {problem}"
        return not broken

    def _on_frame(self, camera: Camera, message: Any) -> None:
        camera.account.received(message.header.stamp)
        if cause := self._why_not(camera):
            camera.account.skipped(cause)
        elif self._worker:
            camera.account.accepted()
            self._worker.put(camera, message)

    def _why_not(self, camera: Camera) -> str:
        """Why a frame of this camera is not wanted now, or ""."""
        if not self._enabled:
            return "disabled"
        if self.get_parameter("lazy").value and not camera.is_listened_to():
            return "unwanted"
        rate = self.get_parameter("max_rate").value
        return "" if camera.budget.grant(time.monotonic(), rate) else "rate"

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        response.success, response.message = True, "enabled" if request.data else "disabled"
        return response

    # ---- an engine that is given up --------------------------------------------------------------

    def _on_broken(self) -> None:
        """The worker's last words, in its thread."""
        if self.executor:
            self.executor.create_task(self._give_up)

    def _give_up(self) -> None:
        """Through ErrorProcessing to unconfigured, where a supervisor sees it.

        Raises SystemExit if the process is to end, for its launch file to respawn it.
        """
        if self._worker:
            self.get_logger().error(f"the engine is given up: {self._worker.problem}")
            if self.state == "active":
                self.trigger_deactivate()  # which ends in ERROR
        if self.get_parameter("on_engine_failure").value == "exit":
            raise SystemExit(1)

    # ---- parameters and diagnostics --------------------------------------------------------------

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        for parameter in changes:
            if parameter.name == "class_names":
                fixed = self._engine and list(parameter.value) == list(self._engine.bundle.manifest.labels.names)
                reason = "" if fixed else "class_names is read only: it comes from the model"
            else:
                reason = refusal(parameter, configured=self._engine is not None or self.under_way == "configure")
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray(status=[self._status()])
        rate = self.get_parameter("max_total_rate").value
        pause = len(self._cameras) / rate if rate else 0.0
        for camera in self._cameras:
            if images := self._images.get(camera.name):
                message.status.append(camera.account.status(images.reliability.name.lower(), images.trouble(), pause))
        for status in message.status:
            status.hardware_id = self._engine.runtime.device if self._engine else "none"
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _status(self) -> DiagnosticStatus:
        """The state of the node, what runs where, and the time of each stage over the last frames of all cameras."""
        level, text = self._health()
        values: dict[str, Any] = {"model": self._settings.model}
        if self._engine:
            runtime = self._engine.runtime
            height, width = runtime.input_size
            values |= {"engine": runtime.engine, "device": runtime.device, "precision": runtime.precision}
            values["input size"] = f"{width}x{height}"
        if self._worker:
            values["engine reopened"] = self._worker.reopened
            values |= latency_values(self._worker.timings.snapshot(), ("p50", "p95", "p99"))
        return diagnostic_status(f"{diagnostic_name(self)}: node", level, text, values)

    def _health(self) -> tuple[bytes, str]:
        if self.under_way:
            return DiagnosticStatus.WARN, f"{self.state}, {self.under_way} is under way"
        if not self._worker:
            return DiagnosticStatus.ERROR, f"{self.state}: {self._problem}" if self._problem else self.state
        if self._worker.broken:
            return DiagnosticStatus.ERROR, f"the engine is given up: {self._worker.problem}"
        if self._worker.attempts:
            attempt = f"attempt {self._worker.attempts} of {len(BACK_OFF)} to open it again"
            return DiagnosticStatus.ERROR, f"the engine failed: {self._worker.problem}; {attempt}"
        return DiagnosticStatus.OK, "active" if self._enabled else "active, disabled"


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM (exit code 0).

    1 where the engine was given up and `on_engine_failure` is exit, or for an error of ours; 2 for arguments or
    parameters it cannot start with.
    """
    memory.share_arenas()
    return process.run(SegmentationNode, args, grace=EXIT_GRACE)


if __name__ == "__main__":
    sys.exit(main())
