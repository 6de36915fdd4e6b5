"""How the vehicle wing is installed, by colcon and by pip alike.

Name, version, packages, files and the console scripts stand here and not in pyproject.toml, because colcon
calls this file and the setuptools of Humble (59.6) does not read a [project] table yet. The table holds what
only pip needs, the dependencies and extras, and names the fields below as `dynamic`. The version is in
package.xml.

The training wing is not installed: it runs from the source tree, as `python training/distill.py`.
"""

from pathlib import Path
from xml.etree import ElementTree

import setuptools
from setuptools import find_packages, setup

NAME = "transkd_ros"
SHARE = f"share/{NAME}"
ROOT = Path(__file__).parent
PACKAGE_XML = ElementTree.parse(ROOT / "package.xml").getroot()


def shared_files():
    """launch/, config/ and models/ as setuptools wants them: [(folder below the prefix, [files])]."""
    folders = {}
    for top in ("launch", "config", "models"):
        for path in sorted((ROOT / top).rglob("*")):
            relative = path.relative_to(ROOT)
            hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
            if path.is_file() and not hidden:
                folders.setdefault(f"{SHARE}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(folders.items())


setup(
    name=NAME,
    version=PACKAGE_XML.findtext("version"),
    description=PACKAGE_XML.findtext("description"),
    maintainer=PACKAGE_XML.findtext("maintainer"),
    maintainer_email=PACKAGE_XML.find("maintainer").get("email"),
    license=PACKAGE_XML.findtext("license"),
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["reports/templates/*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        *shared_files(),
    ],
    python_requires=">=3.10",
    # The extra by which `colcon test` knows that pytest runs the tests; a newer setuptools has it from pyproject.toml.
    extras_require={"test": ["pytest"]} if int(setuptools.__version__.split(".")[0]) < 61 else {},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            f"segmentation_node = {NAME}.nodes.segmentation.node:main",
            f"comparison_node = {NAME}.nodes.comparison:main",
            f"bag_player = {NAME}.nodes.bag_player:main",
            f"evaluation_node = {NAME}.nodes.evaluation:main",
        ]
    },
)
