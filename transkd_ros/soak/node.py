"""The segmentation node, whose engine throws while the file TRANSKD_SOAK_FAULT exists; otherwise it is the real one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from transkd_ros.model.engines import Prediction, Runtime
from transkd_ros.nodes.segmentation import engine
from transkd_ros.nodes.segmentation.node import main

FAULT = "TRANSKD_SOAK_FAULT"


def faulty(runtime: Runtime) -> Runtime:
    """The same, but it throws on demand."""
    fault, infer_batch = Path(os.environ[FAULT]), runtime.infer_batch

    def infer_or_throw(*args: Any) -> list[Prediction]:
        if fault.exists():
            raise RuntimeError("the engine was made to throw")
        return infer_batch(*args)

    runtime.infer_batch = infer_or_throw  # type: ignore[method-assign, assignment]
    return runtime


if __name__ == "__main__":
    open_runtime = engine.open_runtime
    engine.open_runtime = lambda *args, **kwargs: faulty(open_runtime(*args, **kwargs))  # type: ignore[assignment]
    sys.exit(main())
