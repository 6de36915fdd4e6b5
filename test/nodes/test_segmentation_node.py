"""The segmentation node, running: every test talks to it over ROS only, as a camera, a viewer or an operator would."""

from __future__ import annotations

import array
import gc
import re
import select
import shutil
import signal
from itertools import pairwise

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from builtin_interfaces.msg import Time
from rcl_interfaces.srv import DescribeParameters
from ros_graph import DEADLINE, process, wait_until
from rosgraph_msgs.msg import Clock
from segmentation_graph import (
    CAMERA,
    ERROR,
    NODE,
    OK,
    WARN,
    change_state,
    compressed,
    get_parameter,
    image,
    level,
    log_lines,
    pixels_of,
    running,
    set_parameter,
    state,
)
from sensor_msgs.msg import CompressedImage, Image

from transkd_ros.model.labels import LabelTable
from transkd_ros.nodes.segmentation import camera
from transkd_ros.nodes.segmentation.parameters import OPTIONS

pytestmark = pytest.mark.ros

# ---- frames that are fine ------------------------------------------------------------------------

GOOD_IMAGES = {
    "rgb8": lambda rgb: image(rgb, "rgb8", sec=7),
    "bgr8 in padded rows": lambda rgb: image(rgb[..., ::-1], "bgr8", sec=7, padding=13),
    "rgb16 little-endian": lambda rgb: image((rgb * np.uint16(256)).astype("<u2"), "rgb16", sec=7, is_bigendian=0),
    "rgb16 big-endian": lambda rgb: image((rgb * np.uint16(256)).astype(">u2"), "rgb16", sec=7, is_bigendian=1),
}


@pytest.mark.parametrize("make", GOOD_IMAGES.values(), ids=GOOD_IMAGES)
def test_an_image_gets_its_mask_with_the_header_copied(user, bundle_path, colours, make):
    masks = user.listen(Image, "camera/segmentation/mask")
    message = make(colours)
    message.header.stamp.nanosec = 123456789
    with running(bundle_path, qos_reliability="best_effort"):
        mask = user.send_until(lambda: masks, "a mask", "camera/image_raw", message)[0]
    assert mask.header == message.header
    assert (mask.encoding, mask.step) == ("mono8", 96)
    np.testing.assert_array_equal(pixels_of(mask), colours.argmax(axis=2))


def test_a_compressed_image_gets_its_mask(user, bundle_path, colours):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, image_transport="compressed"):
        topic = "camera/image_raw/compressed"
        mask = user.send_until(lambda: masks, "a mask", topic, compressed(colours))[0]
    np.testing.assert_array_equal(pixels_of(mask), colours.argmax(axis=2))


def test_a_best_effort_and_a_reliable_viewer_both_get_the_mask(user, bundle_path, colours):
    best_effort = user.listen(Image, "camera/segmentation/mask", "BEST_EFFORT")
    reliable = user.listen(Image, "camera/segmentation/mask", "RELIABLE")
    with running(bundle_path):
        user.send_until(lambda: best_effort and reliable, "a mask for both", "camera/image_raw", image(colours))


def test_the_mask_has_the_size_of_the_frame_or_of_the_model_or_any_other(user, bundle_path):
    frame = image(np.full((100, 200, 3), (10, 200, 30), np.uint8))
    masks = user.listen(Image, "camera/segmentation/mask")
    for mask_size, expected in (("frame", (100, 200)), ("model", (64, 96)), ("80x50", (50, 80))):
        masks.clear()
        with running(bundle_path, mask_size=mask_size):
            mask = user.send_until(lambda: masks, "a mask", "camera/image_raw", frame)[0]
        assert (mask.height, mask.width) == expected
        assert set(mask.data) == {1}


def test_overlay_and_confidence_are_made_only_while_someone_listens(user, bundle_path, colours, monkeypatch):
    made = []
    overlay = LabelTable.overlay
    monkeypatch.setattr(LabelTable, "overlay", lambda *args: made.append(overlay(*args)) or made[-1])
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        assert not made
        overlays = user.listen(Image, "camera/segmentation/overlay")
        confidences = user.listen(Image, "camera/segmentation/confidence")
        user.send_until(lambda: overlays and confidences, "both", "camera/image_raw", image(colours, sec=5))
    assert (overlays[0].encoding, overlays[0].header.frame_id) == ("rgb8", "lens")
    np.testing.assert_array_equal(pixels_of(overlays[0]), made[0])
    np.testing.assert_array_equal(pixels_of(confidences[0]), colours.max(axis=2))


def test_the_mask_is_there_as_png_without_loss(user, bundle_path, colours, monkeypatch):
    made = []
    png_message = camera.png_message
    monkeypatch.setattr(camera, "png_message", lambda *args: made.append(args) or png_message(*args))
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        assert not made
        heard = user.listen(CompressedImage, "camera/segmentation/mask/compressed")
        user.send_until(lambda: heard, "a PNG", "camera/image_raw", image(colours, sec=5))
    assert heard[0].header.frame_id == "lens" and heard[0].header.stamp.sec == 5
    mask = cv2.imdecode(np.frombuffer(heard[0].data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, colours.argmax(axis=2))


def test_samples_of_12_bits_are_not_black_and_a_parameter_limits_what_a_png_may_announce(
    user, diagnostics, bundle_path, colours, capfd
):
    masks = user.listen(Image, "camera/segmentation/mask")
    dark = (colours.astype(np.uint16) << 4) | 15
    with running(bundle_path, confidence_threshold=0.5):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(dark.astype("<u2"), "rgb16"))
    np.testing.assert_array_equal(pixels_of(masks[-1]), colours.argmax(axis=2))  # bright enough to be certain
    assert any("camera: samples of 16 bits use 12" in line for line in log_lines(capfd, "INFO"))
    with running(bundle_path, image_transport="compressed", max_compressed_pixels=64 * 96 - 1):
        topic = "camera/image_raw/compressed"
        user.send(topic, compressed(colours))
        wait_until(lambda: int(diagnostics.value(CAMERA, "dropped size") or 0) > 0, "a refusal")
        assert set_parameter(user, "max_compressed_pixels", 64 * 96) == (True, "")
        masks.clear()
        user.send_until(lambda: masks, "a mask", topic, compressed(colours))


# ---- freshness and fairness ----------------------------------------------------------------------


def test_of_the_frames_that_come_during_an_inference_only_the_newest_is_segmented(
    user, diagnostics, gated, bundle_path
):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path):
        user.send("camera/image_raw", level(1))
        wait_until(lambda: gated.seen, "the first inference")
        for number in (2, 3, 4, 5):
            user.send("camera/image_raw", level(number))
            diagnostics.wait_for(CAMERA, "received", number)
        gated.gate.release(2)
        wait_until(lambda: gated.seen == [1, 5], "an inference of the newest frame only")
        diagnostics.wait_for(CAMERA, "processed", 2)
        diagnostics.wait_for(CAMERA, "dropped superseded", 3)
    assert masks[-1].header.stamp.sec == 5


def test_a_fast_camera_does_not_starve_a_slow_one(user, diagnostics, gated, bundle_path):
    with running(bundle_path, cameras=["front/left", "right"]):
        received = {"front/left": 0, "right": 0}

        def send(camera, number):
            user.send(f"{camera}/image_raw", level(number))
            received[camera] += 1
            diagnostics.wait_for(f"{NODE}: {camera}", "received", received[camera])

        send("front/left", 1)
        wait_until(lambda: gated.seen == [1], "the first inference")
        send("front/left", 2)
        send("right", 11)
        send("front/left", 3)
        gated.gate.release()
        wait_until(lambda: gated.seen == [1, 3], "the left camera's newest")
        send("front/left", 4)
        gated.gate.release(3)
        wait_until(lambda: gated.seen == [1, 3, 11, 4], "the right camera between two frames of the left one")


def test_a_frame_older_than_max_frame_age_is_dropped_and_one_without_a_stamp_is_not(
    user, diagnostics, bundle_path, colours
):
    def taken(seconds_ago):
        message = image(colours)
        message.header.stamp = Time(sec=user.node.get_clock().now().seconds_nanoseconds()[0] - seconds_ago)
        return message

    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, max_frame_age=60.0):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        user.send("camera/image_raw", taken(seconds_ago=1000))
        diagnostics.wait_for(CAMERA, "dropped stale", 1)
        from_the_future = taken(seconds_ago=-1000)
        user.send("camera/image_raw", from_the_future)
        wait_until(lambda: masks[-1].header == from_the_future.header, "the mask of a camera whose clock is ahead")
        assert set_parameter(user, "max_frame_age", 0.0)[0]
        old = taken(seconds_ago=1000)
        user.send("camera/image_raw", old)
        wait_until(lambda: masks[-1].header == old.header, "the mask of an old frame, now that age does not matter")


def test_ages_are_measured_in_simulated_time_which_may_jump_back(user, diagnostics, bundle_path, colours):
    masks = user.listen(Image, "camera/segmentation/mask")

    def clock_shows(node, sec):
        user.send_until(
            lambda: node.get_clock().now().nanoseconds == sec * 10**9,
            f"time {sec}",
            "/clock",
            Clock(clock=Time(sec=sec)),
        )

    with running(bundle_path, use_sim_time=True, max_frame_age=0.5) as node:
        for now in (1000, 500):
            clock_shows(node, now)
            user.send_until(
                lambda now=now: any(mask.header.stamp.sec == now for mask in masks),
                f"the mask of a frame taken at {now}",
                "camera/image_raw",
                image(colours, sec=now),
            )
        user.send("camera/image_raw", image(colours, sec=490))
        diagnostics.wait_for(CAMERA, "dropped stale", 1)


def test_a_clock_that_is_no_time_is_ignored(user, bundle_path, colours):
    masks = user.listen(Image, "camera/segmentation/mask")
    arguments = ["--ros-args", "-p", f"model:={bundle_path}", "-p", "use_sim_time:=true"]
    with process("-m", "transkd_ros.nodes.segmentation", *arguments) as child:
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        for bad in (Time(sec=-1), Time(sec=1, nanosec=2**32 - 1), Time(sec=-(2**31))):
            for _ in range(4):  # the first may come before the graph is connected
                user.send("/clock", Clock(clock=bad))
                count = len(masks)
                user.send_until(lambda count=count: len(masks) > count, "a mask", "camera/image_raw", image(colours))
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0 and "Traceback" not in output + errors, errors
    assert "/clock is no time: -1 s" in errors


# ---- frames that are not fine --------------------------------------------------------------------


def changed(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


BAD_IMAGES = {
    "unknown encoding": ("encoding", lambda rgb: image(rgb, "plaid8")),
    "too few bytes": ("length", lambda rgb: changed(image(rgb), data=array.array("B", bytes(100)))),
    "no bytes": ("length", lambda rgb: changed(image(rgb), data=array.array("B"))),
    "step smaller than a row": ("step", lambda rgb: changed(image(rgb), step=96)),
    "no rows": ("size", lambda rgb: changed(image(rgb), height=0)),
    "no columns": ("size", lambda rgb: changed(image(rgb), width=0)),
    "absurd size": ("size", lambda rgb: changed(image(rgb), height=2**31, width=2**31, step=2**32 - 1)),
}
BAD_COMPRESSED = {
    "broken JPEG": ("compressed", lambda rgb: cut(compressed(rgb, ".jpg"), 0.6)),
    "no bytes": ("compressed", lambda rgb: cut(compressed(rgb), 0)),
    "PNG header only": ("compressed", lambda rgb: cut(compressed(rgb), 0.1)),
    "another format": ("compressed", lambda rgb: compressed(rgb, ".bmp")),
}


def cut(message, share):
    return changed(message, data=message.data[: int(share * len(message.data))])


def check_survival(user, diagnostics, model, colours, transport, cases, good):
    """Each bad frame is counted by its cause, and the good frame after it gets its mask."""
    topic = "camera/image_raw" + ("/compressed" if transport == "compressed" else "")
    masks = user.listen(Image, "camera/segmentation/mask")
    counts = {}
    with running(model, image_transport=transport):
        user.send_until(lambda: masks, "a mask", topic, good(colours, sec=1))
        for number, (cause, make) in enumerate(cases.values(), start=10):
            user.send(topic, make(colours))
            counts[cause] = counts.get(cause, 0) + 1
            diagnostics.wait_for(CAMERA, f"dropped {cause}", counts[cause])
            user.send(topic, good(colours, sec=number))
            wait_until(lambda number=number: masks[-1].header.stamp.sec == number, f"a mask after {cause}")
        assert state(user) == "active"


def test_bad_images_are_counted_by_cause_and_the_next_good_frame_gets_its_mask(user, diagnostics, bundle_path, colours):
    check_survival(user, diagnostics, bundle_path, colours, "raw", BAD_IMAGES, lambda rgb, sec: image(rgb, sec=sec))


def test_bad_compressed_images_are_counted_and_the_next_good_frame_gets_its_mask(
    user, diagnostics, bundle_path, colours
):
    def good(rgb, sec):
        return compressed(rgb, ".jpg", sec)

    check_survival(user, diagnostics, bundle_path, colours, "compressed", BAD_COMPRESSED, good)


def test_bad_frames_make_the_diagnostics_warn_and_are_logged_once_a_second_per_cause(
    user, diagnostics, bundle_path, colours, capfd
):
    with running(bundle_path):
        bad = changed(image(colours), step=1)
        user.send("camera/image_raw", bad)
        wait_until(lambda: diagnostics.latest(CAMERA) and diagnostics.latest(CAMERA).level == WARN, "a warning")
        for number in range(2, 6):
            user.send("camera/image_raw", bad)
            diagnostics.wait_for(CAMERA, "dropped step", number)
        user.send("camera/image_raw", image(colours, "plaid8"))
        diagnostics.wait_for(CAMERA, "dropped encoding", 1)
        wait_until(lambda: diagnostics.latest(CAMERA).level == OK, "the end of the warning")
    lines = log_lines(capfd, "WARN")
    assert any("(encoding)" in line for line in lines)
    stamps = [float(re.search(r"\[(\d+\.\d+)\]", line)[1]) for line in lines if "(step)" in line]
    assert stamps and all(later - earlier > 0.9 for earlier, later in pairwise(stamps))


def test_an_engine_that_fails_is_reported_and_the_node_goes_on_when_it_recovers(user, diagnostics, gated, bundle_path):
    masks = user.listen(Image, "camera/segmentation/mask")
    gated.error = RuntimeError("the accelerator is on fire")
    gated.gate.release(1000)
    with running(bundle_path):
        for number in (1, 2, 3):
            user.send("camera/image_raw", level(number))
            diagnostics.wait_for(CAMERA, "dropped engine", number)
        status = wait_until(
            lambda: (found := diagnostics.latest(f"{NODE}: node")).level == ERROR and found, "an error status"
        )
        assert "the accelerator is on fire" in status.message
        assert state(user) == "active"
        gated.error = None
        user.send_until(lambda: masks, "a mask", "camera/image_raw", level(4))
        wait_until(lambda: diagnostics.latest(f"{NODE}: node").level == OK, "the end of the error")


# ---- lifecycle, bundles, parameters --------------------------------------------------------------


def test_the_lifecycle_services_drive_the_node(user, diagnostics, bundle_path, colours):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, autostart=False) as node:
        assert state(user) == "unconfigured"
        for _ in range(2):
            assert change_state(user, "configure") and state(user) == "inactive"
            assert get_parameter(user, "class_names") == ["red", "green", "blue"]
            wait_until(
                lambda: diagnostics.latest(f"{NODE}: node").message == "inactive",
                "the state in the diagnostics",
            )
            assert node.count_subscribers("camera/image_raw") == 0
            assert change_state(user, "activate") and state(user) == "active"
            masks.clear()
            user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
            assert change_state(user, "deactivate") and change_state(user, "cleanup")
            wait_until(lambda: node.count_publishers("camera/segmentation/mask") == 0, "the end of the topics")
            assert get_parameter(user, "class_names") is None
        assert change_state(user, "shutdown") and state(user) == "finalized"


def test_a_missing_or_altered_model_leaves_the_node_unconfigured_until_it_is_put_right(
    user, bundle_path, colours, tmp_path, capfd
):
    altered = shutil.copytree(bundle_path, tmp_path / "altered")
    with (altered / "model.onnx").open("ab") as file:
        file.write(b"\0")
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, autostart=False):
        for model in (altered, tmp_path / "missing"):
            assert set_parameter(user, "model", str(model)) == (True, "")
            log_lines(capfd, "ERROR")
            assert not change_state(user, "configure") and state(user) == "unconfigured"
            (line,) = log_lines(capfd, "ERROR")
            assert str(model) in line
        assert set_parameter(user, "model", str(bundle_path)) == (True, "")
        assert change_state(user, "configure") and change_state(user, "activate")
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))


def test_an_autostart_that_fails_leaves_a_node_that_says_why_in_the_diagnostics(user, diagnostics, tmp_path):
    name = f"{NODE}: node"
    with running(tmp_path / "missing"):
        wait_until(lambda: (status := diagnostics.latest(name)) and "missing" in status.message, "the reason")
        assert diagnostics.latest(name).level == ERROR
        assert state(user) == "unconfigured"


def test_a_node_that_has_ended_leaves_no_service_behind(user, bundle_path):
    """Of the tests' own graph: what dead nodes leave there keeps the nodes of later tests from being found."""
    service = f"/{NODE}/get_state"
    gc.disable()
    try:
        with running(bundle_path, autostart=False):
            assert state(user) == "unconfigured"
        wait_until(lambda: user.node.count_services(service) == 0, f"the end of {service}")
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("mask_size", "huge", "not one of frame, model"),
        ("mask_size", "0x80", "mask_size is 0x80, not one of"),
        ("mask_size", "20000x80", "mask_size is 20000x80, not one of"),
        ("mask_size", [50, 80], "not one of frame, model or WIDTHxHEIGHT, e.g. 512x384"),
        ("mask_size", 3, "mask_size is 3, not one of"),
        ("max_rate", -1.0, "out of range"),
        ("sample_bits", 11, "not one of 0, 8, 10"),
        ("threads", -1, "out of range"),
        ("overlay_alpha", 1.5, "out of range"),
        ("max_frame_age", -1.0, "out of range"),
        ("max_frame_age", "soon", "type"),
        ("cameras", ["left", "left"], "twice"),
        ("cameras", ["front camera"], "'front camera' is not a ROS name"),
        ("input_size", "frame", "input_size is frame, not one of model or WIDTHxHEIGHT"),
        ("input_size", [64, 96], "not one of model or WIDTHxHEIGHT, e.g. 512x384"),
        ("autostart", False, "read-only"),
    ],
)
def test_a_bad_parameter_is_refused_with_the_reason_and_the_old_one_stays(user, bundle_path, name, value, reason):
    with running(bundle_path, autostart=False):
        before = get_parameter(user, name)
        successful, why = set_parameter(user, name, value)
        assert not successful and reason in why
        assert get_parameter(user, name) == before


def test_every_parameter_describes_itself(user, bundle_path):
    request = DescribeParameters.Request(names=[option.name for option in OPTIONS])
    with running(bundle_path, autostart=False):
        described = user.call(DescribeParameters, f"/{NODE}/describe_parameters", request).descriptors
    assert [descriptor.name for descriptor in described] == request.names
    assert all(descriptor.description.endswith(".") for descriptor in described)


def test_parameters_of_a_configured_node_are_refused_unless_they_apply_at_once(user, bundle_path):
    with running(bundle_path):
        wait_until(lambda: state(user) == "active", "the active state")
        successful, reason = set_parameter(user, "model", "other")
        assert not successful and "deactivate and cleanup first" in reason
        assert not set_parameter(user, "class_names", ["cat"])[0]
        assert set_parameter(user, "overlay_alpha", 0.25) == (True, "")


# ---- the process ---------------------------------------------------------------------------------


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@SIGNALS
def test_a_signal_ends_the_process_without_a_traceback(user, bundle_path, colours, number):
    masks = user.listen(Image, "camera/segmentation/mask")
    with process("-m", "transkd_ros.nodes.segmentation", "--ros-args", "-p", f"model:={bundle_path}") as child:
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        child.send_signal(number)
        output, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, errors
    assert "Traceback" not in output + errors


HANGING = """
import sys, time
from transkd_ros.nodes.segmentation import engine, node as segmentation
class Hanging:
    engine, device, precision, input_size, reason = "hanging", "CPU", "fp32", (64, 96), "for a test"
    takes_batches = False
    def infer_batch(self, *_):
        print("inferring", flush=True)
        time.sleep(1000)
    def close(self): pass
engine.open_runtime = lambda *args, **kwargs: Hanging()
sys.exit(segmentation.main())
"""


@SIGNALS
def test_a_signal_ends_the_process_during_an_endless_inference(user, bundle_path, colours, number):
    arguments = ["--ros-args", "-p", f"model:={bundle_path}", "-p", "qos_reliability:=reliable"]
    with process("-c", HANGING, *arguments) as child:
        user.send_until(
            lambda: select.select([child.stdout], [], [], 0)[0], "an inference", "camera/image_raw", image(colours)
        )
        child.send_signal(number)
        output, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, errors
    assert "Traceback" not in output + errors


LOADING = """
import sys, time
from transkd_ros.nodes.segmentation import node as segmentation
class Loading:
    def __init__(self, *settings):
        print("loading", flush=True)
        time.sleep(float(sys.argv[1]))
        print("loaded", flush=True)
segmentation.Engine = Loading
sys.exit(segmentation.main())
"""


@SIGNALS
@pytest.mark.parametrize("seconds, ends", [(0.3, True), (1000.0, False)])
def test_a_signal_waits_for_a_model_that_loads_but_not_for_long(number, seconds, ends):
    """Libraries that load while the interpreter ends crash the process."""
    with process("-c", LOADING, str(seconds)) as child:
        assert child.stdout.readline() == "loading\n"
        child.send_signal(number)
        output, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0 and "Traceback" not in errors, errors
    assert output == ("loaded\n" if ends else "")


ENDED_UNDERWAY = """
import sys, rclpy
from transkd_ros.nodes.segmentation import node as segmentation
def spin(node):
    rclpy.shutdown()  # what the signal handler does, at any moment
    raise RuntimeError("failed to initialize wait set: the given context is not valid")  # RCLError is one
rclpy.spin = spin
sys.exit(segmentation.main())
"""


def test_a_signal_while_the_executor_uses_ros_ends_the_process_without_a_traceback():
    with process("-c", ENDED_UNDERWAY, "--ros-args", "-p", "autostart:=false") as child:
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments, reason",
    [(["-p", "mask_size:=huge"], "not one of frame, model"), (["-p", "threads"], "threads")],
    ids=["bad value", "malformed"],
)
def test_unacceptable_arguments_end_the_process_with_one_line_and_code_2(arguments, reason):
    with process("-m", "transkd_ros.nodes.segmentation", "--ros-args", *arguments) as child:
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 2
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and reason in lines[0]
    assert "Traceback" not in errors
