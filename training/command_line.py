"""The parser of `training/distill.py`: its help, and what it says of options that it does not know.

What the options do stands with what takes them: `training.module`, `training.data`, Lightning's Trainer.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

import training.data
from training.data.base import SegmentationData
from training.distillers import Distiller
from training.recipe import read_recipe
from transkd_ros import cli

HELP = """\
usage: python training/distill.py --config RECIPE [--OPTION VALUE ...]

Train a network by a recipe, from labels or under a teacher:

  python training/distill.py --config config/recipes/camvid_light.yaml
  python training/distill.py --config config/recipes/camvid_light.yaml \\
      --trainer.max_epochs 5 --trainer.default_root_dir runs/short

The run's folder gets best and last checkpoint, TensorBoard log, config.yaml
and metrics.json. The options that matter; a recipe holds the same ones:

  --config RECIPE           a file of config/recipes; a second one goes on top
  --trainer.default_root_dir DIR   folder of the run
  --ckpt_path FILE          go on with a run, from its checkpoints/last.ckpt
  --overwrite               replace the run that the folder holds
  --data.root DIR           folder of the data set
  --data.batch_size N       images in a step, per process
  --data.limit N            train on N of the images only
  --model.teacher.source T  a checkpoint, a bundle or a name of the model hub
  --trainer.max_epochs N    length of the run (epochs)
  --trainer.accelerator A   cpu, gpu; --trainer.devices N of them
  --seed_everything N       another seed

  --print_config            show the whole recipe and end
  --data.help Folder        the options of a data set (CamVid, VOC, Folder ...)
  --model.distiller.help TransKD   the options of a method

Every option there is:

"""
NO_RECIPE = "no recipe: give --config RECIPE, a file such as config/recipes/camvid_light.yaml, or --help"

for _module in iter_modules(training.data.__path__):  # so that data sets are known by their short names
    import_module(f"training.data.{_module.name}")


class RecipeParser(LightningArgumentParser):
    """Starts its help with an example and the options that matter, and ends with one line for what it cannot read.

    A recipe may have a base: see `training.recipe`.
    """

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """A recipe's content; jsonargparse has gone to its folder."""
        try:
            values = read_recipe(content, Path())
        except (OSError, yaml.YAMLError) as error:
            raise cli.CommandError(f"{kwargs.get('path') or 'recipe'}: {cli.one_line(error)}") from error
        return super().parse_string(json.dumps(values), *args, **kwargs)

    def format_help(self, *args: Any) -> str:
        whole = super().format_help(*args)
        _, found, options = whole.partition("\noptions:\n")
        return f"{HELP}{options}" if found else whole

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise cli.CommandError(self._explained(" ".join(message.split()))) from ex

    def _explained(self, message: str) -> str:
        """What is wrong with an option, and the options that are spelled like it; else the library's own words."""
        if found := re.search(r"Parser key \"([\w.]+)\":.*Option '([\w.]+)' is not accepted", message):
            part, option = found.groups()  # of the inmost parser's message the part is not known yet
            return f"{part} has no option {option}{_like(option.rpartition('.')[2], _options_of(part))}"
        if unknown := re.search(r"unrecognized arguments: --([\w.]+)", message):
            known = {name for action in self._actions for name in action.option_strings if name.startswith("--")}
            return f"there is no option --{unknown[1]}{_like(f'--{unknown[1]}', known)}"
        if 'Parser key "data":' in message and (name := re.search(r"dot import path string: (\S+)", message)):
            sets = {kind.__name__ for kind in _subclasses(SegmentationData)}
            return f"there is no data set {name[1]}{_like(name[1], sets)}; there are {', '.join(sorted(sets))}"
        if wrong := re.search(r'Parser key "([\w.]+)": Not of type ImageSize: (.*?) - Expected', message):
            return f"{wrong[1]}: {wrong[2]}"
        if "arguments are required: data" in message:
            return f"no data set: {NO_RECIPE}"
        return _cut(message, 600)


def _options_of(part: str) -> set[str]:
    """The options that the classes of a part of a recipe take."""
    base = {"data": SegmentationData, "model.distiller": Distiller}.get(part)
    kinds: list[type] = [] if base is None else [base, *_subclasses(base)]
    return {name for kind in kinds for name in inspect.signature(kind).parameters}


def _subclasses(kind: type) -> Iterator[type[Any]]:
    subclass: type[Any]
    for subclass in kind.__subclasses__():
        if not inspect.isabstract(subclass):
            yield subclass
        yield from _subclasses(subclass)


def _like(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, sorted(known), 3)
    return f"; the closest: {', '.join(close)}" if close else ""


def _cut(text: str, most: int) -> str:
    """A text of at most `most` characters, cut between words."""
    return text if len(text) <= most else text[:most].rpartition(" ")[0] + " …"
