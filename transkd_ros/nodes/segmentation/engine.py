"""The engine of the segmentation node: a bundle, opened as the parameters say, and opened again where it has failed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from transkd_ros.model import memory
from transkd_ros.model.bundle import load_bundle
from transkd_ros.model.engines import Runtime, open_runtime
from transkd_ros.nodes.segmentation.parameters import size_of
from transkd_ros.resources import find_model
from transkd_ros.segmenter import Segmenter


class Engine:
    """What `open_runtime` has opened, within a `segmenter`; one thread at a time may infer.

    `tell` hears, in another thread, when a graph has been compiled that frames had to do without.
    Raises BundleError, FileNotFoundError, RuntimeUnavailable or ValueError for parameters it cannot be opened with.
    """

    def __init__(self, settings: SimpleNamespace, tell: Callable[[str], None]) -> None:
        self._settings, self._tell = settings, tell
        self.bundle = load_bundle(find_model(settings.model))
        labels = self.bundle.manifest.labels
        if settings.confidence_threshold and not self.has_confidence:
            raise ValueError("confidence_threshold needs the confidence output, which model or parameters leave out")
        self.segmenter = Segmenter(
            self._open(),
            size_of("mask_size", settings.mask_size),
            settings.fit == "letterbox",
            labels.ignore_id,
            settings.confidence_threshold,
            wait=False,
        )
        self.is_open = True
        if settings.max_batch > 1 and not self.runtime.takes_batches:
            tell(f"max_batch is {settings.max_batch}, but {self.bundle.path} takes one image at a time: export it anew")

    @property
    def batch(self) -> int:
        """How many frames are inferred at once, at most."""
        if not self.runtime.takes_batches:
            return 1
        return int(self._settings.max_batch or (1 if self._on_cpu else len(self._settings.cameras)))

    @property
    def frames_at_work(self) -> int:
        """How many frames, or batches of them, are worked on at once: two where a device infers by itself."""
        return 1 if self._on_cpu else 2

    @property
    def _on_cpu(self) -> bool:
        """Where one image keeps all cores busy."""
        return self.runtime.device == "CPU"

    @property
    def has_confidence(self) -> bool:
        return bool(self._settings.confidence and "confidence" in self.bundle.manifest.outputs)

    @property
    def runtime(self) -> Runtime:
        return self.segmenter.runtime

    def reopen(self) -> None:
        """Close it and open it again; raises what opening raises, and may be tried again then."""
        self.close()
        self.segmenter.runtime = self._open()
        self.is_open = True

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.runtime.close()
            memory.give_back()

    def _open(self) -> Runtime:
        settings = self._settings
        size = size_of("input_size", settings.input_size)
        runtime = open_runtime(
            self.bundle,
            settings.engine,
            settings.device,
            settings.precision,
            None if isinstance(size, str) else size,  # "model"
            settings.threads,
            want_confidence=settings.confidence_threshold > 0,  # else only while somebody listens
            tune=settings.tune,
        )
        memory.give_back()
        runtime.tell = self._tell
        return runtime
