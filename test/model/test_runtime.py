"""Graphs are compiled when they are wanted, and what does not wait for one does without it meanwhile."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from transkd_ros.model.engines.base import Kind, LoadOptions, Runtime

IMAGE = np.zeros((64, 96, 3), np.uint8)
ONE, ONE_WITH, TWO = Kind(1, False), Kind(1, True), Kind(2, False)
DEADLINE = 30.0  # seconds


class Recorded(Runtime):
    """An engine of whose graphs it is known when they were compiled and run; `gate` holds up all but the first."""

    engine = "recorded"

    def __init__(self, bundle, batches=False):
        super().__init__(bundle, LoadOptions("CPU", "fp32", (64, 96), 0))
        self.takes_batches = batches
        self.compiled, self.ran = [], []
        self.gate = threading.Event()
        self.said = threading.Event()
        self.error = None
        self.tell = lambda text: (setattr(self, "text", text), self.said.set())

    def compile_graph(self, kind):
        if self.compiled:
            assert self.gate.wait(DEADLINE)
        if self.error:
            raise self.error
        self.compiled.append(kind)

        def run(images):
            self.ran.append(kind)
            assert len(images) == kind.images
            return [np.full((kind.images, 64, 96), level, np.uint8) for level in ([1, 2] if kind.confidence else [1])]

        return run


@pytest.fixture
def runtime(tiny_bundle):
    return Recorded(tiny_bundle)


@pytest.fixture
def batching(tiny_bundle):
    return Recorded(tiny_bundle, batches=True)


def infer(runtime, count=1, **options):
    return runtime.infer_batch([IMAGE] * count, **options)


def test_only_what_is_wanted_is_compiled_and_run(runtime):
    runtime.gate.set()
    assert runtime.infer(IMAGE).confidence is None
    assert runtime.compiled == [ONE]
    assert runtime.infer(IMAGE, want_confidence=True).confidence.max() == 2
    runtime.infer(IMAGE)
    assert runtime.compiled == [ONE, ONE_WITH] and runtime.ran == [ONE, ONE_WITH, ONE]


def test_what_does_not_wait_has_no_confidence_until_its_graph_is_compiled(runtime):
    infer(runtime)
    assert infer(runtime, want_confidence=True, wait=False)[0].confidence is None
    assert infer(runtime, want_confidence=True, wait=False)[0].confidence is None
    runtime.gate.set()
    assert runtime.said.wait(DEADLINE) and "compiled for one image with confidence" in runtime.text
    assert infer(runtime, want_confidence=True, wait=False)[0].confidence is not None
    assert runtime.compiled == [ONE, ONE_WITH]


def test_a_graph_that_cannot_be_compiled_is_told_of_and_not_tried_again(runtime):
    infer(runtime)
    runtime.error = RuntimeError("out\nof memory")
    runtime.gate.set()
    assert infer(runtime, want_confidence=True, wait=False)[0].mask is not None
    assert runtime.said.wait(DEADLINE) and runtime.text.endswith("frames do without: out of memory")
    runtime.said.clear()
    assert infer(runtime, want_confidence=True, wait=False)[0].confidence is None
    time.sleep(0.05)
    assert not runtime.said.is_set() and runtime.compiled == [ONE]


def test_a_network_that_takes_one_image_is_run_once_for_each(runtime):
    assert len(infer(runtime, 3)) == 3
    assert runtime.ran == [ONE] * 3


def test_a_batch_is_one_inference_once_its_graph_is_compiled_and_several_until_then(batching):
    infer(batching)
    assert len(infer(batching, 2, wait=False)) == 2 and batching.ran == [ONE] * 3
    batching.gate.set()
    assert batching.said.wait(DEADLINE) and "2 images at once without confidence" in batching.text
    del batching.ran[:]
    assert len(infer(batching, 2, wait=False)) == 2 and batching.ran == [TWO]


def test_confidence_of_a_batch_comes_one_by_one_rather_than_not_at_all(batching):
    infer(batching, want_confidence=True)
    answers = infer(batching, 2, want_confidence=True, wait=False)
    assert [answer.confidence.max() for answer in answers] == [2, 2] and batching.ran == [ONE_WITH] * 3
    batching.gate.set()


def test_a_graph_that_is_ready_after_the_end_is_let_go(runtime):
    infer(runtime)
    before = threading.enumerate()
    infer(runtime, want_confidence=True, wait=False)
    (compiling,) = set(threading.enumerate()).difference(before)
    runtime.close()
    runtime.gate.set()
    compiling.join(DEADLINE)
    assert not runtime._graphs and not runtime.said.is_set()
