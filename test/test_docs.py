"""The documentation: what it says of nodes, launch files and commands is what they are, and the site builds.

What runs on a build server is the subject of `test_automation.py`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from transkd_ros.model.bundle import load_bundle

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
LAUNCH_FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("launch/*.launch.py"))
NODES = dict(re.findall(r'f"(\w+) = \{NAME\}\.([\w.]+):main"', (ROOT / "setup.py").read_text()))
"""Executable → module below transkd_ros."""
SCREEN = 45  # lines


@pytest.fixture(scope="module")
def reference():
    """docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_of_nodes():
    return (DOCS / "nodes.md").read_text()


# ---- the node reference ------------------------------------------------------------------------------------------


def test_every_node_and_launch_file_has_its_table():
    wanted = {f"<!-- parameters: transkd_ros.{module} -->" for module in NODES.values()}
    wanted |= {f"<!-- arguments: {file} -->" for file in LAUNCH_FILES}
    assert len(NODES) >= 4 and len(LAUNCH_FILES) >= 3
    missing = wanted - set(page_of_nodes().splitlines())
    assert not missing, f"docs/nodes.md has no {missing}: write it, then <!-- end -->, and run docs/reference.py"


def test_tables_of_parameters_and_arguments_are_what_the_code_says(reference):
    pytest.importorskip("rclpy", reason="rclpy: the nodes import it")
    page = page_of_nodes()
    now, then = reference.rewritten(page).splitlines(), page.splitlines()
    missing, outdated = [row for row in now if row not in then], [row for row in then if row not in now]
    assert now == then, f"run `python docs/reference.py`: docs/nodes.md lacks {missing} and has {outdated}"


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "cost.md"], ids=lambda page: page.name)
def test_numbers_that_a_page_quotes_are_those_of_the_record(reference, page):
    text = page.read_text()
    assert reference.BLOCK.search(text)
    assert reference.rewritten(text) == text, f"run `python docs/reference.py`: {page.name} is not as its records are"


def test_every_parameter_and_argument_says_what_it_means(reference):
    pytest.importorskip("rclpy", reason="rclpy: the nodes import it")
    options = [o for module in NODES.values() for o in importlib.import_module(f"transkd_ros.{module}").OPTIONS]
    arguments = [argument for file in LAUNCH_FILES for argument in reference.declared(file)]
    assert len(options) > 40 and len(arguments) > 40
    assert [item.name for item in [*options, *arguments] if not item.description.endswith((".", "…"))] == []


def documented(node):
    """{(kind, name, type)} of the rows in the section of a node; a row without a name in backticks is prose."""
    section = re.search(rf"^## {node}\n(.*?)(?=^## |\Z)", page_of_nodes(), re.DOTALL | re.MULTILINE)[1]
    return set(re.findall(r"^\| (sub|pub|srv) \| `([^`]+)` \| `([^`]+)` \|", section, re.MULTILINE))


EVERY_NODE_HAS = re.compile(
    r"/rosout|/parameter_events|.*/transition_event|.*/(get|set|list|describe)_parameter(s|_types|s_atomically)"
    r"|.*/get_type_description|.*/(change_state|get_state|get_available_states|get_available_transitions"
    r"|get_transition_graph)"
)


def offered(node):
    """{(kind, name, type)} that a running node has in the graph, named as in the reference."""
    ask = {
        "pub": node.get_publisher_names_and_types_by_node,
        "sub": node.get_subscriber_names_and_types_by_node,
        "srv": node.get_service_names_and_types_by_node,
    }
    name, namespace = node.get_name(), node.get_namespace()
    found = set()
    for kind in ask:
        for topic, types in ask[kind](name, namespace):
            if not EVERY_NODE_HAS.fullmatch(topic) and (kind, topic) != ("sub", "/clock"):
                topic = topic.removeprefix(f"{namespace}/").replace(f"{name}/", "~/")
                topic = re.sub(r"^/?(.*)\bcamera/", r"\1<camera>/", topic)
                found |= {(kind, topic, re.sub("/(msg|srv)/", "/", type_)) for type_ in types}
    return found


def is_offered(topic, node):
    return topic in {name for _, name, _ in offered(node)}


@pytest.mark.ros
def test_topics_and_services_of_running_nodes_are_those_of_the_reference(tiny_bundle, tmp_path):
    pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")
    from rclpy.parameter import Parameter
    from ros_graph import client, spinning, wait_until
    from sensor_msgs.msg import Image

    from transkd_ros.bags.messages import compressed_message, image_message
    from transkd_ros.bags.storage import BagWriter
    from transkd_ros.nodes.bag_player import BagPlayer
    from transkd_ros.nodes.comparison import ComparisonNode
    from transkd_ros.nodes.evaluation import EvaluationNode
    from transkd_ros.nodes.segmentation.node import SegmentationNode

    black = image_message(np.zeros((64, 96, 3), np.uint8), "rgb8", 10**9)
    recorded = {"image_raw": black, "image_raw/compressed": compressed_message(b"", "jpeg", 10**9)}
    model = str(tiny_bundle.path)
    seen = {name: set() for name in NODES}
    for topic, message in recorded.items():
        space = topic.replace("/", "_")  # a namespace for each, as the graph may remember a node that has gone
        bag = str(tmp_path / space)
        with BagWriter(bag) as writer:
            writer.write(f"/camera/{topic}", message)
        heard = {"image_transport": "raw" if topic == "image_raw" else "compressed"}
        variants = {  # a parameter without which a topic is not there belongs here
            SegmentationNode: {"model": model, **heard},
            ComparisonNode: {"teacher_model": model, "student_model": model, "output": "", **heard},
            EvaluationNode: {"model": model, "bag": bag, "output": str(tmp_path / "out")},
            BagPlayer: {"bag": bag, "paused": True},
        }
        for kind, parameters in variants.items():
            overrides = [Parameter(name, value=value) for name, value in parameters.items()]
            start = partial(kind, namespace=space, parameter_overrides=overrides)
            with spinning(lambda context, start=start: start(context=context)) as node, client() as user:
                # The frames of this picture are heard only while someone listens to it.
                user.listen(Image, f"/{space}/camera/comparison/side_by_side")
                wait_until(partial(is_offered, f"<camera>/{topic}", node), f"{node.get_name()} hears {topic}")
                seen[node.get_name()] |= offered(node)

    seen["bag_player"] = {entry for entry in seen["bag_player"] if "image_raw" not in entry[1]}  # those are the bag's
    for name, found in seen.items():
        rows = documented(name)
        assert not found - rows, f"docs/nodes.md, section {name}, lacks rows for {sorted(found - rows)}"
        here = {row for row in rows if importlib.util.find_spec(row[2].split("/")[0])}  # vision_msgs may not be here
        assert not here - found, f"docs/nodes.md, section {name}, has rows of what is not there: {sorted(here - found)}"


# ---- commands and files that pages name --------------------------------------------------------------------------


def commands(page):
    """The commands in a page's bash blocks, each a list of words."""
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\|", line):
                yield shlex.split(command, comments=True)


@cache
def help_of(*command):
    run = subprocess.run([sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, f"{command}: {run.stderr}"
    return run.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_exists(page, reference):
    for command in commands(page):
        text = " ".join(command)
        if command[:2] == ["python", "-m"] and command[2].startswith("transkd_ros.") and ".nodes." not in command[2]:
            words = [command[2], *(word for word in command[3:4] if not word.startswith("-"))]
            known = help_of(*words)
            unknown = [word for word in command if word.startswith("--") and word not in re.findall(r"--[\w-]+", known)]
            assert not unknown, f"{text}: no option {unknown}"
        if command[:1] == ["python"] and command[1].startswith("training/"):
            assert (ROOT / command[1]).is_file(), text
        if command[:3] == ["ros2", "launch", "transkd_ros"]:
            given = {word.split(":=")[0] for word in command[4:]}
            assert given <= {argument.name for argument in reference.declared(f"launch/{command[3]}")}, text
        if command[:3] == ["ros2", "run", "transkd_ros"]:
            assert command[3] in NODES, text
            given = [word.split(":=")[0] for flag, word in pairwise(command) if flag == "-p"]
            assert all(f"| `{name}` |" in page_of_nodes() for name in given), text
        if command[:1] == ["make"]:
            assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{text}: no target"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(r"(?<![\w/.])(?:config|docs|launch|test|training|transkd_ros)/[\w./-]+\.\w+", page.read_text())
    missing = {name for name in named if not (ROOT / name).exists() and not re.search("NAME|_own|my_", name)}
    assert not missing, f"{page.name} names files that are not there: {missing}"


def test_the_example_of_a_bundle_runs(tmp_path, monkeypatch):
    example = re.search(r"```python\n(.*?)```", (DOCS / "bundle.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    for name in ("mine.onnx", "mine.safetensors"):
        Path(name).write_bytes(name.encode())
    exec(compile(example, "docs/bundle.md", "exec"), {})
    assert load_bundle("models/mine").manifest.name == "mine"


# ---- README and site ---------------------------------------------------------------------------------------------


def test_the_readme_stays_within_two_screens():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 2 * SCREEN, "move it to a page in docs/"


def test_the_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    assert [link for link in links if ":" not in link and not (ROOT / link).exists()] == []


def build_site(folder, *options):
    pytest.importorskip("mkdocs", reason="mkdocs-material: install the extra `dev`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), *options]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    built = build_site(tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    for page in ("index.html", "nodes.html", "CONTRIBUTING.html", "models/camvid_lite0/index.html"):
        assert (tmp_path / page).is_file()
    home = (tmp_path / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(https?:[^"]+\.(?:js|css|woff2?)|https://fonts[^"]+)"', home) == []
    assert 'href="CONTRIBUTING.html"' in home and 'href="results/methods.html"' in home
    assert 'href="CONTRIBUTING.html"' in (tmp_path / "methods.html").read_text()


def test_a_broken_link_and_a_page_that_no_list_has_fail_the_build(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "docs" / "lost.md").write_text("# Lost\n[nowhere](gone.md), [no such place](robot.md#gone)\n")
    configuration = tmp_path / "mkdocs.yml"
    configuration.write_text(f"INHERIT: {ROOT}/mkdocs.yml\nhooks: [{DOCS}/hooks.py]\n")
    built = build_site(tmp_path / "site", "--config-file", str(configuration))
    assert built.returncode != 0
    for name in ("  - lost.md", "'gone.md'", "'robot.md#gone'"):
        assert name in built.stderr
