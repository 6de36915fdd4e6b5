"""A recipe's text: YAML that may name, as its `base`, the file that it changes. Its keys: `training.distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import get_loader

BASE = "base"


def read_recipe(text: str, folder: Path) -> Any:
    """The recipe, laid over its base, a path relative to `folder`, the recipe's own; a base may have one, too.

    Raises OSError for a base that is not there, and YAMLError.
    """
    values = get_loader("yaml")(text)
    if not isinstance(values, dict) or BASE not in values:
        return values
    path = folder / values.pop(BASE)
    return laid_over(read_recipe(path.read_text(), path.parent), values)


def laid_over(base: Any, changes: Any) -> Any:
    """`changes` in place of `base`; where both are mappings, key by key."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return base | {key: laid_over(base.get(key), value) for key, value in changes.items()}
