"""Fixtures of the node tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def bundle_path(tiny_bundle):
    return tiny_bundle.path


@pytest.fixture
def gated(monkeypatch):
    """The engine of every segmentation node: one whose inferences end when the test says so."""
    from segmentation_graph import GatedRuntime

    from transkd_ros.nodes.segmentation import node as segmentation

    runtime = GatedRuntime()
    monkeypatch.setattr(segmentation, "open_runtime", lambda *args, **kwargs: runtime)
    yield runtime
    runtime.close()
