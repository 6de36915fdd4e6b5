"""Which classes of a teacher make up which of the student's: the tables of `config/class_maps`.

A teacher of other classes can then teach what is compared class by class: its probabilities are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from transkd_ros.model.labels import LabelTable
from transkd_ros.resources import class_map_file

LEAST = 1e-6
"""What a probability counts at least, so that a class that no class of the teacher belongs to has a finite logit."""


class ClassMapError(ValueError):
    """A class map that cannot be used; the text names it and the class."""


@dataclass(frozen=True)
class ClassMap:
    """`target[i]` is the id of the student's class that the teacher's class `i` belongs to."""

    name: str
    teacher: LabelTable
    student: LabelTable
    target: tuple[int, ...]

    @classmethod
    def load(cls, name_or_path: str) -> ClassMap:
        """A shipped map by name (`cityscapes_camvid`), or a YAML file of `teacher`, `student` (class tables) and
        `classes`, the student's class of every class of the teacher.

        Raises FileNotFoundError for an unknown name, ClassMapError for a class that is unknown or left out.
        """
        is_path = Path(name_or_path).suffix in (".yaml", ".yml")
        path = Path(name_or_path) if is_path else class_map_file(name_or_path)
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            teacher, student = (LabelTable.load(content[role]) for role in ("teacher", "student"))
            classes: dict[str, str] = dict(content["classes"])
        except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise ClassMapError(f"class map {path}: needs teacher, student and classes ({error})") from error
        for role, table, names in (("teacher", teacher, classes), ("student", student, classes.values())):
            if unknown := [name for name in names if name not in table.names]:
                raise ClassMapError(f"class map {path}: {role} {content[role]} has no class {unknown[0]!r}")
        if missing := [name for name in teacher.names if name not in classes]:
            raise ClassMapError(f"class map {path}: leaves out {', '.join(missing)} of the teacher's classes")
        return cls(path.stem, teacher, student, tuple(student.names.index(classes[name]) for name in teacher.names))

    def __call__(self, logits: Tensor) -> Tensor:
        """The student's classes of a teacher's logits (B, classes, h, w): the logarithm of the summed probabilities.

        A softmax of the result gives the sums back, LEAST at least.
        """
        probabilities = logits.float().softmax(1)
        size = (len(logits), len(self.student.names), *logits.shape[2:])
        target = torch.tensor(self.target, device=logits.device)
        return probabilities.new_zeros(size).index_add_(1, target, probabilities).clamp_min(LEAST).log()
