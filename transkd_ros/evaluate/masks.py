"""The masks of an evaluation as a bag to open beside the original: same stamps, the topics of the segmentation node.

`<camera>/segmentation/mask` holds the class ids (mono8), `<camera>/segmentation/overlay/compressed` is for the eye. Of
several models each has its own namespace, `/<model>/<camera>/…`.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

from transkd_ros.bags.messages import compressed_message, image_message
from transkd_ros.bags.storage import BagWriter
from transkd_ros.evaluate.pipeline import Mask, MaskSink, Shot
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports import html


class MaskBag:
    """A bag being written, an earlier one of that name replaced; complete when `with` ends. Raises BagError."""

    def __init__(self, path: Path, several_models: bool) -> None:
        self._writer = BagWriter(path, overwrite=True)
        self._several = several_models

    def sink(self, model: str, camera: str, labels: LabelTable) -> MaskSink:
        """What the pipeline calls with every mask of this model and camera."""
        name = "/" + re.sub(r"\W", "_", model) if self._several else ""
        topic = f"{name}{camera}/segmentation"

        def write(shot: Shot, mask: Mask) -> None:
            assert shot.frame is not None  # it has a mask
            stamp, frame_id = shot.stamp_ns, shot.frame_id
            overlay = html.jpeg(labels.overlay(shot.frame.rgb(), mask))
            self._writer.write(f"{topic}/mask", image_message(mask, "mono8", stamp, frame_id), shot.recorded_ns)
            shown = compressed_message(overlay, "jpeg", stamp, frame_id)
            self._writer.write(f"{topic}/overlay/compressed", shown, shot.recorded_ns)

        return write

    def __enter__(self) -> MaskBag:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)
