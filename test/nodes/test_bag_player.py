"""The bag player, running: what a subscriber, an operator and a node on simulated time get from it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from rclpy.exceptions import ParameterException
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time as Stamp
from ros_graph import DEADLINE, process, spinning, wait_until
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

from transkd_ros.bags.label_classes import write_classes
from transkd_ros.bags.messages import compressed_message, header_stamp, image_message
from transkd_ros.bags.storage import STORAGES, BagError, BagReader, BagWriter
from transkd_ros.model.labels import LabelTable
from transkd_ros.nodes.bag_player import BagPlayer, message_class

pytestmark = pytest.mark.ros
FRAMES, MASKS, PHOTOS = "/front/image_raw", "/front/ground_truth", "/rear/image_raw/compressed"
START = 5_000_000_000
STEP = 20_000_000  # ns from frame to frame
LENGTH = 8


def stamp(index):
    """Of the frame with this index: taken a little before it was recorded."""
    return START + index * STEP - 3_000_000


def write_bag(path, storage="mcap"):
    """`LENGTH` frames, masks and photos; the first byte of each is its index."""
    with BagWriter(path, storage) as writer:
        for index in range(LENGTH):
            pixels = np.full((4, 6), index, np.uint8)
            recorded = START + index * STEP
            writer.write(FRAMES, image_message(pixels, "mono8", stamp(index), "lens"), recorded)
            writer.write(MASKS, image_message(pixels, "mono8", stamp(index), "lens"), recorded)
            writer.write(PHOTOS, compressed_message(bytes([index]), "jpeg", stamp(index)), recorded)
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("bags") / "bag")


@contextmanager
def playing(bag, **parameters):
    """The player in this process, on reliable topics so that no test loses a message."""
    values = {"bag": str(bag), "qos_reliability": "reliable", "qos_depth": 100, **parameters}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    with spinning(lambda context: BagPlayer(context=context, parameter_overrides=overrides)) as node:
        yield node


def pause(user, paused):
    request = SetBool.Request(data=paused)
    return user.call(SetBool, "/bag_player/pause", request, probe=SetBool.Request(data=True))


def indices(messages):
    return [message.data[0] for message in list(messages)]


def refusal(**parameters):
    """Why the player does not start with these parameters."""
    with pytest.raises((BagError, ParameterException)) as refused, playing(**parameters):
        pass
    return str(refused.value)


# ---- what is played ------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_all_topics_are_played_in_order_as_they_were_recorded(user, tmp_path, storage):
    path = write_bag(tmp_path / "bag", storage)
    frames, masks = user.listen(Image, FRAMES), user.listen(Image, MASKS)
    photos = user.listen(CompressedImage, PHOTOS)
    with playing(path, wait_for_subscribers=3):
        wait_until(lambda: min(map(len, (frames, masks, photos))) == LENGTH, "all messages")
    assert indices(frames) == indices(masks) == indices(photos) == list(range(LENGTH))
    assert [header_stamp(message) for message in frames] == [stamp(index) for index in range(LENGTH)]
    assert [header_stamp(message) for message in photos] == [stamp(index) for index in range(LENGTH)]
    assert (frames[3].encoding, frames[3].header.frame_id, frames[3].step) == ("mono8", "lens", 6)


def test_the_clock_runs_through_the_bag_and_is_never_behind_what_was_recorded(user, bag):
    heard = []
    for kind, topic in ((Clock, "/clock"), (Image, FRAMES)):
        user.node.create_subscription(kind, topic, heard.append, 100)
    with playing(bag):
        wait_until(lambda: sum(isinstance(message, Image) for message in heard) == LENGTH, "all frames")
    times = [Stamp.from_msg(message.clock).nanoseconds for message in heard if isinstance(message, Clock)]
    assert times == sorted(times)
    assert times[0] >= START and times[-1] >= START + (LENGTH - 1) * STEP
    for before, message in pairwise(heard):
        if isinstance(message, Image) and isinstance(before, Clock):
            assert Stamp.from_msg(before.clock).nanoseconds >= START + message.data[0] * STEP


def test_only_the_topics_asked_for_are_played_from_the_offset_on(user, bag):
    frames, masks = user.listen(Image, FRAMES), user.listen(Image, MASKS)
    clock = user.listen(Clock, "/clock")
    with playing(bag, topics=[FRAMES], start_offset=4.5 * STEP / 1e9):
        wait_until(lambda: len(frames) == LENGTH - 5, "the frames behind the offset")
    assert indices(frames) == [5, 6, 7] and not masks
    assert Stamp.from_msg(clock[0].clock).nanoseconds >= START + round(4.5 * STEP)


def test_a_loop_plays_the_bag_again_and_the_clock_jumps_back(user, bag):
    frames, clock = user.listen(Image, FRAMES), user.listen(Clock, "/clock")
    with playing(bag, loop=True, rate=10.0):
        wait_until(lambda: len(frames) > 2 * LENGTH, "the third time")
    assert indices(frames)[: 2 * LENGTH] == 2 * list(range(LENGTH))
    times = [Stamp.from_msg(message.clock).nanoseconds for message in clock]
    assert times != sorted(times) and min(times) >= START


def test_a_message_type_that_is_not_installed_is_named_once_and_the_rest_is_played(user, tmp_path, capfd):
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg("uint8 wheels", "strange_msgs/msg/Car"))
    frame = image_message(np.zeros((3, 3), np.uint8), "mono8", 7)
    kinds = {"/car": store.types["strange_msgs/msg/Car"](wheels=4), FRAMES: frame}
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, message in kinds.items():
            connection = writer.add_connection(topic, message.__msgtype__, typestore=store)
            for recorded in (START, START + STEP):
                writer.write(connection, recorded, store.serialize_cdr(message, message.__msgtype__))
    frames = user.listen(Image, FRAMES)
    with playing(tmp_path / "bag"):
        wait_until(lambda: len(frames) == 2, "both frames")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "strange_msgs" in line]
    assert "/car" in line and "not installed" in line


def test_a_latched_topic_is_there_for_a_subscriber_who_comes_late(user, tmp_path):
    table = LabelTable(("road",), ((1, 2, 3),))
    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        write_classes(writer, MASKS, table, START)
        for index in range(100):
            writer.write(FRAMES, image_message(np.zeros((4, 6), np.uint8), "mono8", stamp(index)), START + index * STEP)
    frames = user.listen(Image, FRAMES)
    with playing(path):
        wait_until(lambda: len(frames) > 3, "some frames")
        heard = []
        late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        user.node.create_subscription(String, f"{MASKS}/classes", heard.append, late)
        wait_until(lambda: heard, "the classes of the labels")
    assert "road" in heard[0].data


@pytest.mark.parametrize("name", ["os/path/join", "json/msg/../decoder", "sensor_msgs/msg/_image", "a/b", "re/msg/X/y"])
def test_what_a_bag_calls_a_type_is_imported_only_as_a_message(name):
    with pytest.raises(ImportError, match="PACKAGE/msg/NAME"):
        message_class(name)


def test_a_class_that_is_no_message_is_not_played(tmp_path, monkeypatch):
    (tmp_path / "tools" / "msg").mkdir(parents=True)
    (tmp_path / "tools" / "msg" / "__init__.py").write_text("class Hammer: pass")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="no message type"):
        message_class("tools/msg/Hammer")


@pytest.mark.parametrize("recorded", [-1, 2**31 * 10**9])
def test_a_bag_recorded_when_there_is_no_ros_time_is_refused(tmp_path, recorded):
    with BagWriter(tmp_path / "bag", "sqlite3") as writer:
        writer.write(FRAMES, image_message(np.zeros((4, 6), np.uint8), "mono8", 7), recorded)
    assert "/clock cannot show" in refusal(bag=tmp_path / "bag")


# ---- when it is played ---------------------------------------------------------------------------


def test_it_waits_for_its_subscribers_so_that_the_first_message_is_heard(user, bag):
    clock, frames = user.listen(Clock, "/clock"), user.listen(Image, FRAMES)
    with playing(bag, wait_for_subscribers=2) as player:
        wait_until(lambda: player.count_subscribers(FRAMES), "the first subscriber")
        time.sleep(1.0)
        assert not frames and not clock
        masks = user.listen(Image, MASKS)
        wait_until(lambda: len(frames) == len(masks) == LENGTH, "all messages")
    assert indices(frames)[0] == indices(masks)[0] == 0


def test_it_says_so_and_plays_when_nobody_comes(user, bag, capfd):
    clock = user.listen(Clock, "/clock")
    with playing(bag, wait_timeout=0.2):
        wait_until(lambda: clock, "the clock")
    assert "0 of 1 subscriptions after 0.2 s" in capfd.readouterr().err


def test_paused_at_the_start_it_goes_on_and_stops_by_its_service(user, bag):
    frames, clock = user.listen(Image, FRAMES), user.listen(Clock, "/clock")
    with playing(bag, paused=True, rate=0.05):
        answer = pause(user, True)
        assert (answer.success, answer.message) == (True, "paused")
        wait_until(lambda: len(clock) > 3, "the clock")
        assert {Stamp.from_msg(message.clock).nanoseconds for message in clock} == {START}
        assert pause(user, False).message == "playing"
        wait_until(lambda: len(frames) > 2, "frames")
        assert pause(user, True).success
        stopped_at = len(clock)
        wait_until(lambda: len(clock) > stopped_at + 5, "more of the clock")
        assert len({Stamp.from_msg(message.clock).nanoseconds for message in clock[stopped_at + 2 :]}) == 1
        assert len(frames) < LENGTH


def test_the_bag_is_read_no_further_than_it_was_played(user, bag, monkeypatch):
    read = []
    messages = BagReader.messages

    def counted(*args):
        return (read.append(message) or message for message in messages(*args))

    monkeypatch.setattr(BagReader, "messages", counted)
    clock = user.listen(Clock, "/clock")
    with playing(bag, paused=True, topics=[FRAMES], wait_for_subscribers=0, start_offset=0.01):
        wait_until(lambda: len(clock) > 3, "the clock")
        assert len(read) == 1


# ---- how it ends ---------------------------------------------------------------------------------


def test_the_process_ends_by_itself_after_the_last_message(user, bag):
    frames = user.listen(Image, FRAMES)
    options = ("-p", f"bag:={bag}", "-p", "qos_reliability:=reliable", "-p", "qos_depth:=100")
    with process("-m", "transkd_ros.nodes.bag_player", "--ros-args", *options) as child:
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors and f"played {3 * LENGTH} messages" in errors
    assert indices(frames) == list(range(LENGTH))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_process_without_a_traceback(user, bag, number):
    frames = user.listen(Image, FRAMES, "BEST_EFFORT")
    options = ("-p", f"bag:={bag}", "-p", "loop:=true")
    with process("-m", "transkd_ros.nodes.bag_player", "--ros-args", *options) as child:
        wait_until(lambda: frames, "a frame")
        child.send_signal(number)
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors


DAMAGED = """
import sys
from transkd_ros.bags.storage import BagError, BagReader
from transkd_ros.nodes import bag_player
messages = BagReader.messages
def damaged(*args):
    for number, message in enumerate(messages(*args)):
        if number == 6:
            raise BagError("the bag is damaged here")
        yield message
BagReader.messages = damaged
sys.exit(bag_player.main())
"""


def test_a_bag_that_is_damaged_underway_is_played_so_far_and_ends_with_code_2(user, bag):
    frames = user.listen(Image, FRAMES)
    with process("-c", DAMAGED, "--ros-args", "-p", f"bag:={bag}", "-p", "qos_reliability:=reliable") as child:
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 2 and "Traceback" not in errors
    assert "error: the bag is damaged here" in errors.splitlines()
    assert indices(frames) == [0, 1]


def test_a_bag_that_cannot_be_played_ends_the_process_with_one_line_and_code_2(tmp_path):
    with process("-m", "transkd_ros.nodes.bag_player", "--ros-args", "-p", f"bag:={tmp_path / 'gone'}") as child:
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line == f"error: {tmp_path / 'gone'}: no such bag"


def test_empty_and_truncated_bags_are_refused_by_name(tmp_path):
    with BagWriter(tmp_path / "empty"):
        pass
    assert refusal(bag=tmp_path / "empty") == f"{tmp_path / 'empty'}: the bag is empty, it holds no messages"
    for storage in STORAGES:
        cut = write_bag(tmp_path / storage, storage)
        (file,) = (path for path in cut.iterdir() if path.suffix in (".mcap", ".db3"))
        os.truncate(file, file.stat().st_size // 2)
        assert f"{cut}: cannot be read, damaged or cut short" in refusal(bag=cut)
    assert "set the parameter bag" in refusal(bag="")


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"topics": ["/left/image_raw"]}, ["no topic /left/image_raw", FRAMES, MASKS, PHOTOS]),
        ({"start_offset": 1.0}, ["start_offset is 1 s", "ends after 0.14 s"]),
        ({"rate": 0.0}, ["rate", "out of range"]),
        ({"qos_reliability": "perhaps"}, ["not one of best_effort, reliable"]),
    ],
)
def test_a_bad_parameter_is_refused_with_what_would_do(bag, parameters, words):
    reason = refusal(bag=bag, **parameters)
    assert [word for word in words if word not in reason] == []
