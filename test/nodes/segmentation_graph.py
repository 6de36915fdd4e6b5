"""The segmentation node in a test's graph: how it is started, what a camera sends it, how an operator drives it."""

from __future__ import annotations

import array
import threading
from contextlib import contextmanager

import cv2
import numpy as np
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter, parameter_value_to_python
from ros_graph import spinning, wait_until
from sensor_msgs.msg import CompressedImage, Image

from transkd_ros.model.engines import Prediction
from transkd_ros.nodes.segmentation.node import SegmentationNode

NODE = "segmentation_node"
CAMERA = f"{NODE}: camera"
OK, WARN, ERROR = b"\0", b"\1", b"\2"


@contextmanager
def running(model, **parameters):
    """The node in this process, with quick diagnostics, and reliable subscriptions so that no test loses a frame."""
    values = {"model": str(model), "diagnostics_period": 0.05, "qos_reliability": "reliable", **parameters}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    with spinning(lambda context: SegmentationNode(context=context, parameter_overrides=overrides)) as node:
        yield node


def image(pixels, encoding="rgb8", sec=0, padding=0, is_bigendian=0):
    """A message of (H, W[, C]) pixels; a row is followed by `padding` bytes."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message = Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=padded.shape[1],
        is_bigendian=is_bigendian,
        data=array.array("B", padded.tobytes()),
    )
    message.header.frame_id = "lens"
    message.header.stamp.sec = sec
    return message


def compressed(pixels, suffix=".png", sec=0):
    data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    message = CompressedImage(format=suffix[1:], data=array.array("B", data))
    message.header.stamp.sec = sec
    return message


def pixels_of(message):
    """(H, W) or (H, W, 3) uint8 of a message without padding."""
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze()


def log_lines(capfd, severity):
    """What was logged since the last call."""
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith(f"[{severity}]")]


def change_state(user, label):
    future = ask_to(user, label)
    wait_until(future.done, f"the end of {label}")
    return future.result().success


def ask_to(user, label):
    """The future of the response of a transition."""
    request, nothing = ChangeState.Request(), ChangeState.Request()
    request.transition.label, nothing.transition.label = label, "none"
    return user.ask(ChangeState, f"/{NODE}/change_state", request, probe=nothing)


def state(user):
    return user.call(GetState, f"/{NODE}/get_state", GetState.Request()).current_state.label


def set_parameter(user, name, value):
    """(successful, reason) of the node's parameter service."""
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    result = user.call(SetParameters, f"/{NODE}/set_parameters", request).results[0]
    return result.successful, result.reason


def get_parameter(user, name):
    values = user.call(GetParameters, f"/{NODE}/get_parameters", GetParameters.Request(names=[name])).values
    return parameter_value_to_python(values[0]) if values else None


class StandInRuntime:
    """Stands for an engine, in what the node uses of one; to be given `infer` and `close`."""

    engine, device, precision, input_size, reason = "stand-in", "CPU", "fp32", (64, 96), "for a test"
    takes_batches = False

    def infer_batch(self, images, want_confidence=False, wait=True):
        return [self.infer(image) for image in images]


class GatedRuntime(StandInRuntime):
    """Its inferences end when the test says so; `seen` are the red levels of their images."""

    def __init__(self):
        self.seen = []
        self.gate = threading.Semaphore(0)
        self.error = None

    def infer(self, image):
        self.seen.append(int(image[0, 0, 0]))
        self.gate.acquire(timeout=30)
        if self.error:
            raise self.error
        return Prediction(np.zeros(self.input_size, np.uint8), None)

    def close(self):
        self.gate.release(1000)


def level(value):
    """A frame that GatedRuntime recognises."""
    return image(np.full((64, 96, 3), value, np.uint8), sec=value)
