"""Writes what pages quote: tables of node parameters and launch arguments, and measured numbers. `make docs` runs it.

A table stands between two comments: `<!-- parameters: MODULE -->` for the OPTIONS of a module, `<!-- arguments: FILE
-->` for the ARGUMENTS of a launch file, or one of `<!-- targets: FILE -->`, `speeds` and `sentence` for what
`transkd_ros.benchmark.record` makes of a record; and `<!-- end -->`. The tables are in the page, not made while the
site is built, so that it reads whole in a repository browser too; `test/test_docs.py` fails while one of them is not
what this script writes.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "cost.md", ROOT / "docs" / "nodes.md"]
RECORDED = ("targets", "speeds", "sentence")
BLOCK = re.compile(rf"(<!-- (parameters|arguments|{'|'.join(RECORDED)}): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
LEFT_EMPTY = " Empty: as in the parameter file."


def rewritten(text: str) -> str:
    """A page with each of its tables as the code has it now."""
    tables: dict[str, Callable[[str], list[str]]] = {"parameters": parameters, "arguments": arguments}
    tables |= {kind: partial(recorded, kind) for kind in RECORDED}
    return BLOCK.sub(lambda block: "\n".join([block[1], *tables[block[2]](block[3]), "", block[4]]), text)


def parameters(module: str) -> list[str]:
    """The rows of the parameters that the OPTIONS of `module` describe. Imports the node, and so rclpy."""
    when = {"START": "at start", "CONFIGURE": "configure", "ALWAYS": "any time"}
    options = import_module("transkd_ros.nodes.options")
    names = {getattr(options, name): text for name, text in when.items()}
    return table(
        ("parameter", "default", "values", "set", "meaning"),
        (
            (f"`{o.name}`", _literal(o.default), _values(o.choices, o.limits), names[o.applies], _prose(o.description))
            for o in import_module(module).OPTIONS
        ),
    )


def arguments(file: str) -> list[str]:
    """The rows of the arguments that the launch file at `file` (relative to the repository) declares."""
    return table(
        ("argument", "default", "values", "meaning"),
        (
            (f"`{a.name}`", _default(a), _values(a.choices), _prose(a.description.removesuffix(LEFT_EMPTY)))
            for a in declared(file)
        ),
    )


def recorded(kind: str, file: str) -> list[str]:
    """What the record at `file` (relative to the repository) says, by a function of `transkd_ros.benchmark.record`."""
    return getattr(import_module("transkd_ros.benchmark.record"), kind)(json.loads((ROOT / file).read_text()))


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [lines[0], "|---" * (lines[0].count(" | ") + 1) + "|", *lines[1:]]


def _literal(value: Any) -> str:
    """A default as a parameter file has it."""
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, list):
        value = f"[{', '.join(map(str, value))}]" if any(item != "" for item in value) else '[""]'
    return f"`{value}`" if value != "" else '`""`'


def _default(argument: Argument) -> str:
    if argument.default is None:
        return "must be given"
    if argument.description.endswith(LEFT_EMPTY):
        return "of the parameter file"
    return _literal(argument.default.removeprefix(f"{ROOT}/"))


def _values(choices: Iterable[str] | None, limits: tuple[float, float] | None = None) -> str:
    if limits:
        return f"{limits[0]:,g} … {limits[1]:,g}"
    return ", ".join(f"`{choice}`" for choice in choices or () if choice)


def _prose(text: str) -> str:
    """A description as Markdown: names with <placeholders> as code, nothing that would end the cell."""
    return re.sub(r"[\w/~]*<\w+>[\w/~…]*", r"`\g<0>`", text).replace("|", r"\|")


# ---- launch files, read where launch is not installed ----------------------------------------------


class Argument:
    """What DeclareLaunchArgument was given."""

    def __init__(
        self, name: str, *, description: str = "", default_value: str | None = None, choices: list[str] | None = None
    ) -> None:
        self.name, self.description, self.default, self.choices = name, description, default_value, choices


class StandIns(MetaPathFinder, Loader):
    """Provides `launch` and `launch_ros`, which are not on PyPI, as modules that have every name one asks for."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ("launch", "launch_ros") else None

    def exec_module(self, module: ModuleType) -> None:
        known = {"DeclareLaunchArgument": Argument}
        module.__getattr__ = lambda name: known.get(name) or mock.MagicMock()  # type: ignore[method-assign]


def declared(file: str) -> list[Argument]:
    """The ARGUMENTS of a launch file. What it imports meanwhile is forgotten again."""
    others = {name: module for name, module in sys.modules.items() if not re.match(r"launch(_ros)?(\.|$)", name)}
    others.pop("transkd_ros.nodes.launching", None)
    finders = [StandIns(), *sys.meta_path]
    with mock.patch.dict(sys.modules, others, clear=True), mock.patch.object(sys, "meta_path", finders):
        return runpy.run_path(str(ROOT / file))["ARGUMENTS"]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for page in PAGES:
        page.write_text(rewritten(page.read_text()))
