"""An engine that fails is opened again or given up in the open, and the node answers while it changes state."""

from __future__ import annotations

import ctypes
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from lifecycle_msgs.msg import TransitionEvent
from ros_graph import DEADLINE, process, wait_until
from segmentation_graph import (
    CAMERA,
    NODE,
    GatedRuntime,
    ask_to,
    change_state,
    image,
    level,
    log_lines,
    running,
    state,
)
from sensor_msgs.msg import Image

from transkd_ros.model import memory
from transkd_ros.model.engines import Prediction
from transkd_ros.nodes.segmentation import engine, worker
from transkd_ros.nodes.segmentation.parameters import OPTIONS
from transkd_ros.soak.watch import footprint

pytestmark = pytest.mark.ros


class FaultyRuntime(GatedRuntime):
    """Works if `works`; `opened` are all that were opened in this test."""

    def __init__(self, works):
        super().__init__()
        self.works = works
        self.is_open = True

    def infer(self, image):
        assert self.is_open
        if not self.works:
            raise RuntimeError("the accelerator is on fire")
        return Prediction(np.zeros(self.input_size, np.uint8), None)

    def close(self):
        assert self.is_open
        self.is_open = False


@pytest.fixture
def faulty(monkeypatch):
    """A function: set what happens when the engine is opened, time after time (False: an engine that fails; an error);
    the last happens ever after. Gives the list of what was opened."""
    monkeypatch.setattr(worker, "BACK_OFF", (0.0, 0.01, 0.02))

    def plan(*outcomes):
        left, opened = list(outcomes), []

        def open_runtime(*args, **kwargs):
            outcome = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(outcome, Exception):
                raise outcome
            opened.append(FaultyRuntime(outcome))
            return opened[-1]

        monkeypatch.setattr(engine, "open_runtime", open_runtime)
        return opened

    return plan


def message_of(diagnostics):
    status = diagnostics.latest(f"{NODE}: node")
    return status.message if status else ""


def test_an_engine_that_fails_is_closed_and_opened_again_until_there_are_masks(
    user, diagnostics, bundle_path, faulty
):
    masks = user.listen(Image, "camera/segmentation/mask")
    opened = faulty(False, False, RuntimeError("no device"), True)
    with running(bundle_path):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", level(1))
        diagnostics.wait_for(f"{NODE}: node", "engine reopened", 2)
        wait_until(lambda: message_of(diagnostics) == "active", "the end of the error")
        assert [runtime.is_open for runtime in opened] == [False, False, True]
        assert int(diagnostics.value(CAMERA, "dropped engine")) == 6
        assert state(user) == "active"
        assert change_state(user, "deactivate")
        wait_until(lambda: message_of(diagnostics) == "inactive", "a status without the old problem")
    assert not opened[-1].is_open


def test_an_engine_that_was_closed_when_deactivate_came_is_opened_by_activate(
    user, diagnostics, bundle_path, faulty, monkeypatch
):
    monkeypatch.setattr(worker, "BACK_OFF", (0.0, 100.0))
    masks = user.listen(Image, "camera/segmentation/mask")
    opened = faulty(False, RuntimeError("no device"))
    with running(bundle_path):
        user.send_until(lambda: "no device" in message_of(diagnostics), "the back-off", "camera/image_raw", level(1))
        assert change_state(user, "deactivate")
        assert not change_state(user, "activate")
        wait_until(lambda: "no device" in message_of(diagnostics), "the reason")
        opened = faulty(True)
        assert change_state(user, "activate")
        user.send_until(lambda: masks, "a mask", "camera/image_raw", level(1))
        assert [runtime.is_open for runtime in opened] == [True]


def test_an_inactive_node_gives_back_the_memory_of_its_frames(user, bundle_path, monkeypatch):
    given_back = []
    with running(bundle_path):
        wait_until(lambda: state(user) == "active", "the start")
        monkeypatch.setattr(memory, "give_back", lambda: given_back.append(1))
        assert change_state(user, "deactivate")
        assert given_back == [1]


def test_an_engine_that_cannot_be_opened_again_takes_the_node_through_error_processing(
    user, diagnostics, bundle_path, faulty, colours
):
    masks = user.listen(Image, "camera/segmentation/mask")
    events = user.listen(TransitionEvent, f"/{NODE}/transition_event")
    faulty(False, RuntimeError("no device"))
    with running(bundle_path):
        user.send_until(lambda: "no device" in message_of(diagnostics), "the reason", "camera/image_raw", level(1))
        wait_until(lambda: state(user) == "unconfigured", "the end of the error processing")
        assert "errorprocessing" in [event.goal_state.label for event in events]
        wait_until(lambda: "unconfigured: the engine failed" in message_of(diagnostics), "the reason afterwards")
        faulty(True)  # a supervisor starts it again
        assert change_state(user, "configure") and change_state(user, "activate")
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        wait_until(lambda: message_of(diagnostics) == "active", "the end of the error")


SCRIPT = """
import sys, threading, time
import rclpy
from transkd_ros.nodes.segmentation import engine, node as segmentation
class Faulty:
    engine, device, precision, input_size, reason = "faulty", "CPU", "fp32", (64, 96), "for a test"
    takes_batches = False
    def infer_batch(self, *_):
        {infer}
    def close(self): pass
engine.open_runtime = lambda *args, **kwargs: Faulty()
"""
FAILS = SCRIPT.format(infer='raise RuntimeError("the accelerator is on fire")')
CRASHES = SCRIPT.format(infer="time.sleep(1000)") + """
def on_frame(self, camera, message, heard=segmentation.SegmentationNode._on_frame):
    heard(self, camera, message)
    raise ValueError("a mistake of ours")
segmentation.SegmentationNode._on_frame = on_frame
"""


@pytest.mark.parametrize(
    "script, reason",
    [(FAILS, "the engine is given up: RuntimeError: the accelerator is on fire"), (CRASHES, "a mistake of ours")],
    ids=["on_engine_failure: exit", "a crash during an endless inference"],
)
def test_what_ends_the_node_ends_its_process_with_code_1_for_respawn(user, bundle_path, colours, script, reason):
    parameters = (f"model:={bundle_path}", "on_engine_failure:=exit", "qos_reliability:=reliable")
    arguments = ("--ros-args", *(word for parameter in parameters for word in ("-p", parameter)))
    with process("-c", script + "sys.exit(segmentation.main())", *arguments) as child:

        def ended():
            if user.node.count_subscribers("camera/image_raw"):
                user.send("camera/image_raw", image(colours))
            return child.poll() is not None

        wait_until(ended, "the end of the process")
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 1, errors
    assert reason in errors


def test_the_node_answers_while_a_model_loads_and_refuses_other_transitions_meanwhile(
    user, diagnostics, bundle_path, monkeypatch, capfd
):
    loading, may_load = threading.Event(), threading.Event()

    def open_runtime(*args, **kwargs):
        loading.set()
        may_load.wait(DEADLINE)
        return FaultyRuntime(True)

    monkeypatch.setattr(engine, "open_runtime", open_runtime)
    with running(bundle_path, autostart=False):
        configured = ask_to(user, "configure")
        wait_until(loading.is_set, "the loading")
        wait_until(lambda: "configure is under way" in message_of(diagnostics), "diagnostics while it loads")
        assert state(user) == "unconfigured"
        assert not change_state(user, "configure")
        assert not change_state(user, "shutdown")
        assert not configured.done()
        may_load.set()
        wait_until(configured.done, "the end of configure")
        assert configured.result().success and state(user) == "inactive"
    refused = [line for line in log_lines(capfd, "WARN") if "configure is under way" in line]
    assert len(refused) >= 2 and "transition shutdown refused" in refused[-1]


def test_the_node_answers_while_a_deactivate_waits_for_an_inference_and_gives_up_one_that_does_not_end(
    user, diagnostics, bundle_path, gated, monkeypatch
):
    with running(bundle_path):
        user.send_until(lambda: gated.seen, "an inference", "camera/image_raw", level(1))
        user.send("camera/image_raw", level(2))
        deactivated = ask_to(user, "deactivate")
        wait_until(lambda: "deactivate is under way" in message_of(diagnostics), "diagnostics while it waits")
        assert state(user) == "active" and not deactivated.done()
        gated.gate.release()
        wait_until(deactivated.done, "the end of deactivate")
        assert deactivated.result().success and state(user) == "inactive"

        monkeypatch.setattr(worker, "JOIN_LIMIT", 0.1)
        assert change_state(user, "activate")
        count = len(gated.seen)
        user.send_until(lambda: len(gated.seen) > count, "an inference", "camera/image_raw", level(3))
        assert not change_state(user, "deactivate")
        assert state(user) == "unconfigured"
        wait_until(lambda: "the inference does not end" in message_of(diagnostics), "the reason")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="malloc_trim is of the GNU C library")
def test_memory_that_opening_and_closing_have_freed_goes_back_to_the_system(faulty, bundle_path):
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

    def fragmented():
        """MB of this process after it has freed 50 MB below a block that it keeps."""
        blocks = [libc.malloc(1000) for _ in range(50_000)]
        for block in blocks[:-1]:
            libc.free(block)
        return footprint(os.getpid())["memory_mb"]

    faulty(True)
    settings = SimpleNamespace(**{option.name: option.default for option in OPTIONS} | {"model": str(bundle_path)})
    before = fragmented()
    opened = engine.Engine(settings, print)
    assert footprint(os.getpid())["memory_mb"] < before - 40
    before = fragmented()
    opened.close()
    assert footprint(os.getpid())["memory_mb"] < before - 40
