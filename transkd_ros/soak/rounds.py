"""What a round of a soak does to the node, one thing after the other, and the reckoning at its end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transkd_ros.demo.child_node import NodeProcess
from transkd_ros.soak.camera import CAMERA
from transkd_ros.soak.watch import NODE, Watcher, footprint, unexplained

AGE_LIMIT = 0.5  # seconds, the node's max_frame_age
LOOPS = 20  # of the lifecycle in a round: 200 in ten minutes
OVERLOAD = 3.0  # times as many frames as the node can take
MOST_RATE = 200.0  # Hz


class Rounds:
    def __init__(self, watcher: Watcher, node: NodeProcess, folder: Path, fault: Path) -> None:
        self._watcher, self._node, self._folder, self._fault = watcher, node, folder, fault
        self._random = random.Random(0)
        self.done = self.loops = self.jumps = self.throws = self.cameras = 0
        self.samples: list[dict[str, float]] = []  # the footprint of the node after each round
        self.frames: Counter[str] = Counter()  # received, masks and drops by cause, of all accounts
        self.unexplained: list[int] = []  # frames, at each reckoning

    def run(self) -> None:
        """One round."""
        with self._camera():
            self._jump_clock()
            self._come_and_go()
            self._change_parameters()
            self._make_the_engine_throw()
        # The camera was killed in the middle of it; another one comes.
        self._reckon()
        with self._camera():
            self._loop_lifecycle()
            self._expect_masks("the lifecycle loops")
        self._reckon()
        self.frames += self._watcher.frames()
        self.samples.append(footprint(self._node.pid))
        self._watcher.change("deactivate")
        self._watcher.change("cleanup")  # a new account of every camera
        self._watcher.change("configure")
        self._watcher.change("activate")
        self.done += 1
        self._node.check()

    @contextmanager
    def _camera(self) -> Iterator[None]:
        """Overload by a camera that is killed in the end."""
        self.cameras += 1
        total = float(self._watcher.values("node").get("total p50 (ms)", 30.0))
        rate = min(OVERLOAD * 1e3 / total, MOST_RATE)
        log = self._folder / "camera.log"
        with NodeProcess({"rate": rate}, log, "camera", "transkd_ros.soak") as camera:
            self._pid = camera.pid
            self._expect_masks("the start of a camera")  # before that, a signal would end it
            yield
            camera.check()
            os.kill(camera.pid, signal.SIGKILL)

    def _jump_clock(self) -> None:
        for _ in range(3):
            os.kill(self._pid, signal.SIGUSR1)
            self.jumps += 1
            time.sleep(1.0)
        self._expect_masks("jumps of the clock")

    def _come_and_go(self) -> None:
        for _ in range(3):
            self._watcher.look()
            time.sleep(0.1)

    def _change_parameters(self) -> None:
        watcher = self._watcher
        for alpha in (0.0, 1.0, 0.5):
            watcher.set("overlay_alpha", alpha)
        watcher.set("max_rate", 2.0)
        watcher.set("lazy", True)
        watcher.set("overlay_alpha", 7.0, acceptable=False)
        watcher.set("model", "another", acceptable=False)
        watcher.set("max_frame_age", "soon", acceptable=False)
        time.sleep(0.5)
        watcher.set("lazy", False)
        watcher.set("max_rate", 0.0)
        self._expect_masks("changes of parameters")

    def _make_the_engine_throw(self) -> None:
        reopened = int(self._watcher.values("node").get("engine reopened", 0))
        self._fault.touch()
        self._watcher.wait_for(
            lambda: int(self._watcher.values("node").get("engine reopened", 0)) > reopened, "the engine open again"
        )
        self._fault.unlink()
        self.throws += 1
        self._expect_masks("an engine that threw")

    def _loop_lifecycle(self) -> None:
        for _ in range(LOOPS):
            self._watcher.change("deactivate")
            self._watcher.change("activate")
            self.loops += 1
            time.sleep(self._random.uniform(0, 0.1))

    def _expect_masks(self, after: str) -> None:
        before = self._watcher.masks
        self._watcher.wait_for(lambda: self._watcher.masks > before + 3, f"masks after {after}")

    def _reckon(self) -> None:
        """Without a camera nothing comes, and soon nothing waits: every frame has its mask or its cause."""
        watcher = self._watcher
        seen = None
        while seen != (seen := watcher.values(CAMERA).get("received")) or not watcher.values(CAMERA):
            time.sleep(1.5)
        watcher.wait_for(lambda: unexplained(watcher.frames()) == 0, "frames in = masks + drops")
        self.unexplained.append(unexplained(watcher.frames()))
        if watcher.state() != "active":
            watcher.wrong[f"{NODE} is {watcher.state()}"] += 1
