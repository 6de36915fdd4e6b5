"""The segmentation node, whose engine throws while the file TRANSKD_SOAK_FAULT exists; otherwise it is the real one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from transkd_ros.model.engines import Prediction
from transkd_ros.nodes.segmentation import engine
from transkd_ros.nodes.segmentation.node import main

FAULT = "TRANSKD_SOAK_FAULT"


class FaultyRuntime:
    """A runtime that throws on demand; all else is the runtime's own."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._fault = Path(os.environ[FAULT])

    def infer(self, image: np.ndarray) -> Prediction:
        if self._fault.exists():
            raise RuntimeError("the engine was made to throw")
        prediction: Prediction = self._runtime.infer(image)
        return prediction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


if __name__ == "__main__":
    open_runtime = engine.open_runtime
    engine.open_runtime = lambda *args, **kwargs: FaultyRuntime(open_runtime(*args, **kwargs))  # type: ignore[assignment]
    sys.exit(main())
