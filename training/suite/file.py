"""A suite's file: YAML as `Suite` says, and what a command line changes in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from training.suite.plan import Method, Suite, TeacherRun, slug
from transkd_ros import cli


def read_suite(path: Path) -> Suite:
    """The suite of a YAML file. Raises OSError, and CommandError for one that is not as Suite says."""
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise cli.CommandError(f"{path} is not YAML: {cli.one_line(error)}") from error
    if not isinstance(values, dict):
        raise cli.CommandError(f"{path} is not a suite: it has to name title, output, folder, student, …")
    parser = _Parser()
    parser.add_argument("--suite", type=Suite)
    try:
        found = parser.parse_object({"suite": values}).suite.as_dict()
    except ValueError as error:
        raise cli.CommandError(f"{path}: {cli.one_line(error)[:300]}") from error
    suite = Suite(
        **found
        | {
            "student": Method(**found["student"]),
            "methods": [Method(**method) for method in found["methods"]],
            "teachers": {name: TeacherRun(**teacher) for name, teacher in found["teachers"].items()},
        }
    )
    if fault := _fault(suite):
        raise cli.CommandError(f"{path}: {fault}")
    return suite


def _fault(suite: Suite) -> str | None:
    """What is wrong with the names in a suite."""
    for kind, names in (("methods", [slug(row.method) for row in suite.rows]), ("seeds", suite.seeds)):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            return f"{kind}: {twice[0]} stands there twice"
    if not suite.seeds:
        return "seeds: at least one is needed"
    if suite.student.teacher is not None:
        return "student: it learns from labels only and has no teacher"
    for method in suite.methods:
        if method.teacher is not None and method.teacher not in suite.teachers:
            return f"{method.method}: no teacher {method.teacher}; there are {_listed(suite.teachers)}"
    for name, teacher in suite.teachers.items():
        if (teacher.soft_labels is None) != (teacher.score is None):
            return f"teacher {name}: soft_labels and the score of those who wrote them belong together"
    if suite.goal is not None and suite.goal not in (known := [method.method for method in suite.methods]):
        return f"goal: no method {suite.goal}; there are {_listed(known)}"
    if suite.equal_time and (other := [row.method for row in suite.methods if row.differs]):
        return f"equal_time: the steps of {other[0]} differ by more than its method"
    for recipe in (*(row.recipe for row in suite.rows), *(teacher.recipe for teacher in suite.teachers.values())):
        if not recipe.is_file():
            return f"no recipe {recipe}"
    return None


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(message) from ex


def altered(suite: Suite, changes: list[str]) -> Suite:
    """With options from a command line: KEY=VALUE for all methods, NAME:KEY=VALUE for one method or teacher.

    Raises CommandError for a change of another form or of a name that the suite lacks.
    """
    for change in changes:
        left, equals, value = change.partition("=")
        name, _, key = left.rpartition(":")
        if not (equals and key):
            raise cli.CommandError(f"--set {change}: expected KEY=VALUE or NAME:KEY=VALUE")
        suite = _with(suite, name, {key: value})
    return suite


def _with(suite: Suite, name: str, option: dict[str, Any]) -> Suite:
    if not name:
        return replace(suite, overrides=suite.overrides | option)
    if name in suite.teachers:
        teacher = suite.teachers[name]
        return replace(suite, teachers=suite.teachers | {name: replace(teacher, options=teacher.options | option)})
    known = [method.method for method in suite.rows]
    if name not in known:
        raise cli.CommandError(
            f"--set {name}: no such method or teacher; there are {_listed([*known, *suite.teachers])}"
        )
    student, *methods = (replace(m, options=m.options | option) if m.method == name else m for m in suite.rows)
    return replace(suite, student=student, methods=methods)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
