"""The RViz configurations and Foxglove layouts show what the nodes really publish, and overlays come with a legend."""

from __future__ import annotations

import array
import json
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from rclpy.parameter import Parameter
from ros_graph import Diagnostics, client, spinning, wait_until
from sensor_msgs.msg import Image

from transkd_ros.nodes.comparison import ComparisonNode
from transkd_ros.nodes.segmentation.node import SegmentationNode

pytestmark = pytest.mark.ros
CONFIG = Path(__file__).resolve().parents[2] / "config"
IMAGE = "sensor_msgs/msg/Image"
CAMERA = "/camera/image_raw"  # the only topic that is shown and not one of the nodes'


def rviz_topics(name):
    """The topic of every display."""
    config = yaml.safe_load((CONFIG / "rviz" / f"{name}.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    assert {display["Class"] for display in displays} == {"rviz_default_plugins/Image"}
    return [display["Topic"]["Value"] for display in displays]


def foxglove_panels(name):
    """{panel id: its configuration}."""
    return json.loads((CONFIG / "foxglove" / f"{name}.json").read_text())["configById"]


def foxglove_topics(name):
    """{panel id: its topic}."""
    topics = {}
    for panel, config in foxglove_panels(name).items():
        path = config.get("imageMode", config).get("imageTopic") or config.get("topicToRender") or config["topicPath"]
        topics[panel] = re.match(r"[\w/]+", path)[0]
    return topics


def chosen_statuses(name):
    """The names of diagnostics that a panel shows."""
    for config in foxglove_panels(name).values():
        yield from re.findall(r'name=="([^"]+)"', config.get("topicPath", ""))
        if "selectedName" in config:
            yield config["selectedName"]


@contextmanager
def graph(name, bundle, output):
    """The nodes that the launch file of that name starts for one camera called `camera`, in this process."""
    model = [Parameter("model", value=str(bundle.path)), Parameter("diagnostics_period", value=0.05)]
    models = [Parameter(f"{side}_model", value=str(bundle.path)) for side in ("teacher", "student")]
    with ExitStack() as nodes:
        if name == "segment":
            yield [nodes.enter_context(spinning(lambda c: SegmentationNode(context=c, parameter_overrides=model)))]
            return
        remapping = ["--ros-args", "-r", "camera/image_raw:=/camera/image_raw"]
        started = [
            nodes.enter_context(
                spinning(
                    lambda c, side=side: SegmentationNode(
                        context=c, namespace=side, cli_args=remapping, parameter_overrides=model
                    )
                )
            )
            for side in ("teacher", "student")
        ]
        overrides = [*models, Parameter("output", value=str(output)), Parameter("diagnostics_period", value=0.05)]
        comparison = spinning(lambda c: ComparisonNode(context=c, parameter_overrides=overrides))
        yield [*started, nodes.enter_context(comparison)]


@pytest.mark.parametrize("name", ["segment", "compare"])
def test_every_topic_that_is_shown_is_one_of_the_nodes(name, tiny_bundle, tmp_path):
    panels = foxglove_topics(name)
    pictures = {*rviz_topics(name), *(topic for panel, topic in panels.items() if panel.startswith("Image!"))}
    with graph(name, tiny_bundle, tmp_path) as nodes, client() as user:

        def published():
            """{topic: types} of all nodes; the segmentation nodes announce theirs when they have configured."""
            own = (node.get_publisher_names_and_types_by_node(node.get_name(), node.get_namespace()) for node in nodes)
            return {topic: kinds for topics in own for topic, kinds in topics}

        ours = {*panels.values(), *pictures} - {CAMERA}
        wait_until(lambda: ours <= set(published()), f"publishers of {sorted(ours)}")
        kinds = published()
        assert [topic for topic in pictures & ours if kinds[topic] != [IMAGE]] == []
        wait_until(lambda: user.node.count_subscribers(CAMERA) >= 1, f"a node that hears {CAMERA}")
        diagnostics = Diagnostics(user)
        for status in chosen_statuses(name):
            wait_until(lambda status=status: diagnostics.latest(status), f"the status {status}")


@pytest.mark.parametrize("name", ["segment", "compare"])
def test_the_layout_places_every_panel_once(name):
    def leaves(tree):
        return [tree] if isinstance(tree, str) else leaves(tree["first"]) + leaves(tree["second"])

    layout = json.loads((CONFIG / "foxglove" / f"{name}.json").read_text())["layout"]
    assert sorted(leaves(layout)) == sorted(foxglove_panels(name))


def test_the_overlay_has_a_legend_that_can_be_switched_off(tiny_bundle):
    pixels = np.full((240, 320, 3), (10, 20, 200), np.uint8)
    frame = Image(height=240, width=320, step=960, encoding="rgb8", data=array.array("B", pixels.tobytes()))
    overrides = [
        Parameter("model", value=str(tiny_bundle.path)),
        Parameter("qos_reliability", value="reliable"),
    ]
    with (
        client() as user,
        spinning(lambda context: SegmentationNode(context=context, parameter_overrides=overrides)) as node,
    ):
        overlays = user.listen(Image, "camera/segmentation/overlay")

        def colours():
            """Of the newest overlay, in which the frame and its one class are the same everywhere."""
            overlays.clear()
            newest = user.send_until(lambda: overlays, "an overlay", "camera/image_raw", frame)[-1]
            return np.unique(np.frombuffer(newest.data, np.uint8).reshape(-1, 3), axis=0).tolist()

        with_legend = colours()
        for swatch in tiny_bundle.manifest.labels.colors:
            assert list(swatch) in with_legend
        node.set_parameters([Parameter("overlay_legend", value=False)])
        wait_until(lambda: len(colours()) == 1, "an overlay without a legend")
