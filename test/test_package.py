"""The package as a whole: what it declares, what it installs, and where its two wings may not touch."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import setuptools

ROOT = Path(__file__).resolve().parent.parent
VEHICLE = ROOT / "transkd_ros"

# import name -> rosdep key, where the two differ
ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "google": "python3-protobuf",
    "jinja2": "python3-jinja2",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "rich": "python3-rich",
    "rosbags": "python3-rosbags-pip",
    "yaml": "python3-yaml",
}
NO_ROSDEP_KEY = {"openvino", "torch"}  # engines that come through pip; package.xml says so in a comment
TORCH_FAMILY = {"torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning", "torchmetrics"}
RUNS_TORCH = {"model/engines/torch_engine.py", "benchmark/naive.py"}
PICKLED_FILE = re.compile(r"\.(pt|pth|ckpt|pkl|pickle)")
UNPICKLING_CALL = re.compile(r"torch\.load\(|allow_pickle")


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def imports(source: Path) -> set[str]:
    """Top-level names of all absolute imports in a file, those inside functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(), str(source))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def vehicle_sources() -> list[tuple[str, Path]]:
    """(path below transkd_ros/, path) of every module of the vehicle wing."""
    return [(source.relative_to(VEHICLE).as_posix(), source) for source in sorted(VEHICLE.rglob("*.py"))]


def project_files() -> list[str]:
    """Paths that a clone of this checkout has, or will have once new files are committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What setup.py hands to setuptools."""
    arguments: dict = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    return arguments


def test_package_xml_is_a_complete_format_3_manifest() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg checks package.xml")
    package = catkin_pkg.parse_package(ROOT / "package.xml")
    package.validate()
    assert package.package_format == 3
    assert package.name == "transkd_ros"
    assert package.get_build_type() == "ament_python"
    assert package.licenses == ["Apache-2.0"]


def test_every_import_of_the_vehicle_is_a_dependency_in_package_xml() -> None:
    declared = {element.text for element in package_xml().iter("exec_depend")}
    sources = [source for _, source in vehicle_sources()] + sorted((ROOT / "launch").glob("*.py"))
    for source in sources:
        foreign = imports(source) - set(sys.stdlib_module_names) - {"transkd_ros"} - NO_ROSDEP_KEY
        if source.relative_to(ROOT).as_posix() == "transkd_ros/benchmark/naive.py":
            foreign -= {*TORCH_FAMILY, "safetensors"}
        missing = {ROSDEP_KEYS.get(name, name) for name in foreign} - declared
        assert not missing, f"{source.relative_to(ROOT)} imports what package.xml does not declare: {missing}"


def test_setup_py_takes_its_version_from_package_xml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup_arguments(monkeypatch)["version"] == package_xml().findtext("version")


def test_setup_py_installs_every_launch_config_and_model_file(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {name for name in project_files() if name.startswith(("launch/", "config/", "models/"))}
    data_files = setup_arguments(monkeypatch)["data_files"]
    installed = {name: folder for folder, names in data_files for name in names}
    assert wanted <= set(installed)
    for name in wanted:
        assert installed[name] == f"share/transkd_ros/{Path(name).parent.as_posix()}"


def test_setup_py_installs_the_vehicle_wing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = setup_arguments(monkeypatch)["packages"]
    folders = {source.parent.relative_to(ROOT).as_posix() for _, source in vehicle_sources()}
    assert set(packages) == {folder.replace("/", ".") for folder in folders}


@pytest.mark.slow
def test_colcon_builds_the_package(tmp_path: Path) -> None:
    colcon = shutil.which("colcon", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if colcon is None:
        pytest.skip("colcon is not installed")
    for name in project_files():
        target = tmp_path / "src/transkd_ros" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    environment = {**os.environ, "COLCON_HOME": str(tmp_path / "home")}
    built = subprocess.run([colcon, "build"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr

    prefix = tmp_path / "install/transkd_ros"
    assert (prefix / "share/ament_index/resource_index/packages/transkd_ros").is_file()
    assert os.access(prefix / "lib/transkd_ros/segmentation_node", os.X_OK)
    for folder in ("launch", "config", "models"):
        wanted = {name for name in project_files() if name.startswith(f"{folder}/")}
        share = prefix / "share/transkd_ros"
        assert wanted <= {path.relative_to(share).as_posix() for path in (share / folder).rglob("*")}


def test_vehicle_wing_never_imports_the_training_wing() -> None:
    assert [name for name, source in vehicle_sources() if "training" in imports(source)] == []


def test_vehicle_wing_imports_torch_in_its_torch_engine_only() -> None:
    users = {name for name, source in vehicle_sources() if imports(source) & TORCH_FAMILY}
    assert users <= RUNS_TORCH


def test_vehicle_wing_reads_no_pickles() -> None:
    for name, source in vehicle_sources():
        assert not imports(source) & {"pickle", "joblib", "dill"}, f"{name} imports a pickle module"
        assert not UNPICKLING_CALL.search(source.read_text()), f"{name} may unpickle"


def test_repository_holds_no_pickles() -> None:
    assert [name for name in project_files() if PICKLED_FILE.fullmatch(Path(name).suffix)] == []
