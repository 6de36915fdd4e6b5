"""Whether the training wing has what it needs. Imports nothing of that, so that it can say so."""

from __future__ import annotations

import sys
from importlib.util import find_spec

MODULES = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning", "jsonargparse", "torchmetrics")


def require() -> None:
    """End a command with one line and code 2 where packages of the extra `training` are missing."""
    if missing := [name for name in MODULES if find_spec(name) is None]:
        print(
            f"error: no module {missing[0]}: training needs its extra: pip install -e '.[training,pretrained]', or "
            "`make train` and .venv/dev/bin/python",
            file=sys.stderr,
        )
        sys.exit(2)
