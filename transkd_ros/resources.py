"""Where the files that ship beside the code are: models, label tables, node parameters.

The same calls work from a checkout, from a colcon install and from a pip install. What is inside a model
folder is the subject of `model.bundle`.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

PACKAGE = "transkd_ros"
FASTDDS_PROFILE, FASTRTPS_PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
# FASTDDS_BUILTIN_TRANSPORTS is what makes Fast DDS work between containers: a profile's transports would replace them.
_DDS_CHOICES = {FASTDDS_PROFILE, FASTRTPS_PROFILE, "FASTDDS_BUILTIN_TRANSPORTS"}
DEFAULT_MODEL = "camvid_light"


def share_directory() -> Path:
    """The folder of `models/` and `config/`: the checkout, or where colcon or pip installed them.

    Raises FileNotFoundError if the package was installed without its data files.
    """
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "package.xml").is_file() and (checkout / "models").is_dir():
        return checkout
    installed = _ament_share() or Path(sysconfig.get_path("data")) / "share" / PACKAGE
    if not installed.is_dir():
        raise FileNotFoundError(f"{installed} is missing: {PACKAGE} came without its data; install it again")
    return installed


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a model: `models/<name>` for the name of a shipped one, else a folder path as given.

    Write `./name` for a folder that is called like a shipped model. Raises FileNotFoundError, whose text
    lists the shipped models.
    """
    models = share_directory() / "models"
    shipped = sorted(manifest.parent.name for manifest in models.glob("*/manifest.json"))
    if str(name_or_path) in shipped:
        return models / name_or_path
    if str(name_or_path) and Path(name_or_path).is_dir():
        return Path(name_or_path)
    names = ", ".join(shipped) or "none"
    raise FileNotFoundError(f"no model '{name_or_path}': give a folder's path or a shipped model ({names})")


def labels_file(name: str) -> Path:
    """The label table `config/labels/<name>.yaml`. Raises FileNotFoundError, whose text lists the tables."""
    return _config_file("labels", "label table", name)


def class_map_file(name: str) -> Path:
    """The class map `config/class_maps/<name>.yaml`. Raises FileNotFoundError, whose text lists the maps."""
    return _config_file("class_maps", "class map", name)


def _config_file(folder_name: str, what: str, name: str) -> Path:
    folder = share_directory() / "config" / folder_name
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise FileNotFoundError(f"no {what} '{name}' in {folder}; there are: {names}")
    return path


def dds_environment(profile: str = "auto") -> dict[str, str]:
    """The variable that gives Fast DDS a profile with room for camera images.

    `profile`: "auto" is `config/fastdds.xml`, and nothing where the user has chosen: a profile, the transports, or
    another middleware than Fast DDS. "none" is nothing. Else it is a path; raises FileNotFoundError where no file is.
    """
    chosen = _DDS_CHOICES & os.environ.keys() or "fastrtps" not in os.environ.get("RMW_IMPLEMENTATION", "fastrtps")
    if profile == "none" or (profile == "auto" and chosen):
        return {}
    path = share_directory() / "config" / "fastdds.xml" if profile == "auto" else Path(profile).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such DDS profile; give the path of an XML file, auto or none")
    # Humble and Jazzy have Fast DDS 2, which reads the older name; with the newer one it would go unnoticed.
    name = FASTRTPS_PROFILE if os.environ.get("ROS_DISTRO") in ("humble", "jazzy") else FASTDDS_PROFILE
    return {name: str(path)}


def _ament_share() -> Path | None:
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(PACKAGE))
    except (ImportError, LookupError, OSError):  # no ROS, not installed in it, or no workspace sourced
        return None
