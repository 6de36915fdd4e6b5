"""A suite: the methods that one table compares, the runs which that takes, and whether all are of one budget.

How its file is read stands in `training.suite.file`, how runs are made in `training.compare`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.distill import settings_of
from training.suite.record import read_committee, read_run
from transkd_ros import cli

METHOD = "model.distiller.class_path"
EPOCHS = "trainer.max_epochs"
FREE = ("config", "ckpt_path", "overwrite", "trainer.default_root_dir", "trainer.accelerator", "data.init_args.workers")
"""The options that may differ between a run and the suite: they say where it is made, not what."""
OWN = ("model.distiller", "model.teacher")
"""What a method's options begin with that the student alone does not have. All others are the budget."""


@dataclass(frozen=True)
class Method:
    """A row of the table: its name, the recipe, one of the suite's teachers, and `options` of this method alone.

    Without a teacher it learns from labels only, as the student does, from other ones, say.

    `differs` declares where its budget is not the student's: why, by the option's name, or that of a group of options.
    The table's page shows it.
    """

    method: str
    recipe: Path
    teacher: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TeacherRun:
    """A teacher: its recipe, whose budget it keeps, the folder of its run, and `options` of its own.

    With `soft_labels`, methods learn from that folder, which training/annotate.py has made of it and others; its
    `score` is the file that --score wrote, of what all of them know together.
    """

    recipe: Path
    run: Path
    options: dict[str, Any] = field(default_factory=dict)
    soft_labels: Path | None = None
    score: Path | None = None

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoints" / "best.ckpt"

    @property
    def source(self) -> Path:
        """What a student's recipe names."""
        return self.soft_labels or self.checkpoint


@dataclass(frozen=True)
class Difference:
    """An `option` whose `value` in a method's runs is not `students`, and the suite's reason `why`."""

    method: str
    option: str
    value: Any
    students: Any
    why: str


@dataclass(frozen=True)
class Budget:
    """What all runs of a suite share: the student's `options` by their dotted names, but for the `differences`."""

    options: dict[str, Any]
    differences: list[Difference]


@dataclass(frozen=True)
class Run:
    """A call of training/distill.py: its `arguments` without a checkpoint, and the `products` that say it has ended."""

    title: str
    folder: Path
    arguments: tuple[str, ...]
    products: tuple[Path, ...]

    @property
    def done(self) -> bool:
        return all(path.exists() for path in self.products)

    @property
    def last(self) -> Path:
        """The checkpoint from which an interrupted run goes on."""
        return self.folder / "checkpoints" / "last.ckpt"

    def check(self) -> dict[str, Any]:
        """The run's options by their dotted names, its recipe's and its own.

        Raises CommandError for options that training/distill.py would not understand, and where the folder holds a run
        with other ones or without its results.
        """
        try:
            wanted = settings_of(list(self.arguments))
        except cli.CommandError as error:
            raise cli.CommandError(f"{self.title}: {error}") from error
        if self.done or self.last.exists():
            there = settings_of(["--config", str(self.folder / "config.yaml")])
            for name in {**wanted, **there}:
                if name not in FREE and there.get(name) != wanted.get(name):
                    raise cli.CommandError(
                        f"{self.folder} holds a run of another budget: {name} is {there.get(name)} and in the suite "
                        f"{wanted.get(name)}; remove the folder or change the suite"
                    )
        if self.done:
            read_run(self.folder)
        return wanted


@dataclass(frozen=True)
class Suite:
    """What is compared, as it stands in a file of config/recipes.

    `output` is the table's path without a suffix. Runs lie in `folder`/NAME-seedN, each of `student` and `methods` with
    each of `seeds`; `overrides` are options of training/distill.py that all of them get: the budget. `goal` is the
    method whose runs are the far end of the gap, in place of the teacher. `notes` are put below the table as they are.
    With `equal_time`, the student alone is also trained for as long as each method takes (see `controls`).
    """

    title: str
    output: Path
    folder: Path
    student: Method
    teachers: dict[str, TeacherRun]
    methods: list[Method]
    seeds: list[int] = field(default_factory=lambda: [1])
    overrides: dict[str, Any] = field(default_factory=dict)
    goal: str | None = None
    equal_time: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Method]:
        return [self.student, *self.methods]

    def controls(self, budget: Budget, steps: dict[str, Any] | None) -> dict[str, Method]:
        """By method, the student alone for so many epochs as fit into the time of the method's.

        `steps` are the costs that `training.suite.steps` measured: of a step as it is, its teacher's part included, but
        nothing that a method does before its first step. Empty without `equal_time`.
        """
        ms = steps["ms"] if self.equal_time and steps else {}
        if (plain := ms.get(self.student.method)) is None:
            return {}
        epochs = budget.options[EPOCHS]
        taken = {row.method: round(epochs * ms[row.method] / plain) for row in self.methods if row.method in ms}
        return {method: self._alone_for(count) if count != epochs else self.student for method, count in taken.items()}

    def _alone_for(self, epochs: int) -> Method:
        name = f"{self.student.method} for {epochs} epochs"
        return replace(self.student, method=name, options=self.student.options | {EPOCHS: epochs})

    def run(self, method: Method, seed: int) -> Run:
        folder = self.folder / f"{slug(method.method)}-seed{seed}"
        options = self.overrides | method.options | {"trainer.default_root_dir": folder, "seed_everything": seed}
        if method.teacher is not None:
            options["model.teacher.source"] = self.teachers[method.teacher].source
        arguments = _arguments(method.recipe, options)
        return Run(f"{method.method}, seed {seed}", folder, arguments, (folder / "metrics.json",))

    def teacher_run(self, name: str) -> Run:
        teacher = self.teachers[name]
        arguments = _arguments(teacher.recipe, teacher.options | {"trainer.default_root_dir": teacher.run})
        return Run(f"teacher {name}", teacher.run, arguments, (teacher.run / "metrics.json", teacher.checkpoint))

    def teacher_record(self, name: str) -> dict[str, Any]:
        """The metrics.json of a teacher that was trained, and `same_data`; of a committee, what that knows."""
        found, teacher = read_run(self.teacher_run(name).folder), self.teachers[name]
        if teacher.soft_labels and teacher.score:
            found |= read_committee(teacher.score, teacher.soft_labels)
        return found | {"same_data": self.same_data(name)}

    def same_data(self, teacher: str) -> bool:
        """Whether a teacher's scores are of the data that the methods' are of, so that they can be set against them."""
        runs = self.teacher_run(teacher), self.run(self.student, self.seeds[0])
        return len({settings_of(list(run.arguments))["data.class_path"] for run in runs}) == 1

    def check_runs(self, method: Method) -> None:
        """Raises CommandError where a run of it that is there, or was begun, is of another budget."""
        for seed in self.seeds:
            self.run(method, seed).check()

    def check(self) -> Budget:
        """The budget. Raises CommandError for whatever would make a run fail early or not comparable."""
        for name, teacher in self.teachers.items():
            self.teacher_run(name).check()
            if teacher.soft_labels and teacher.score and teacher.soft_labels.is_dir():  # else a run says what to do
                read_committee(teacher.score, teacher.soft_labels)
        for seed in self.seeds:
            students = self.run(self.student, seed).check()
            if METHOD in students:
                raise cli.CommandError(f"{self.student.method}: {self.student.recipe} names a distiller")
            differences = []
            for method in self.methods:
                options = self.run(method, seed).check()
                if (METHOD in options) != (method.teacher is not None):
                    wrong = "names no distiller" if method.teacher else "names a distiller, and the suite no teacher"
                    raise cli.CommandError(f"{method.method}: {method.recipe} {wrong}")
                differences += _differences(method, options, self.student.method, students)
        return Budget(students, differences)


def _differences(method: Method, options: dict[str, Any], student: str, students: dict[str, Any]) -> list[Difference]:
    """Where a method's options are not the student's; CommandError where that is not what its `differs` declares."""
    students, options = (_folded(all_of, list(method.differs)) for all_of in (students, options))
    names = [name for name in {**students, **options} if name not in FREE and not name.startswith(OWN)]
    found = [name for name in names if options.get(name) != students.get(name)]
    for name in found:
        if name not in method.differs:
            raise cli.CommandError(
                f"{method.method} and {student} are not of one budget: {name} is {options.get(name)} and "
                f"{students.get(name)}; make them equal, or write below the method `differs: {{{name}: WHY}}`"
            )
    if absent := [name for name in method.differs if name not in found]:
        raise cli.CommandError(f"{method.method}: differs: {absent[0]} is that of {student}: remove the line")
    return [Difference(method.method, it, options.get(it), students.get(it), method.differs[it]) for it in found]


def _folded(options: dict[str, Any], groups: list[str]) -> dict[str, Any]:
    """The same options; those below the name of a group are one, a dict by the rest of their names."""
    folded: dict[str, Any] = {}
    for name, value in options.items():
        group = next((group for group in groups if name.startswith(f"{group}.")), None)
        if group is None:
            folded[name] = value
        else:
            folded[group] = (folded.get(group) or {}) | {name.removeprefix(f"{group}."): value}
    return folded


def _arguments(recipe: Path, options: dict[str, Any]) -> tuple[str, ...]:
    texts = ((name, value if isinstance(value, (str, Path)) else json.dumps(value)) for name, value in options.items())
    return ("--config", str(recipe), *(f"--{name}={text}" for name, text in texts))


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
