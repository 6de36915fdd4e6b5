"""A lifecycle node that keeps answering while it changes state.

rclpy runs a transition inside the callback of its service, so a model that loads for a minute would keep every service
and the diagnostics silent. Here a node does what takes long in a thread *before* rclpy's transition, which then finds
it done; until then the node is in the state it was in, and further transitions are refused.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.task import Future

T = TypeVar("T")


class ManagedNode(LifecycleNode):
    """To be subclassed: `prepare` says what a transition has to wait for. Arguments are those of LifecycleNode."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.under_way = ""  # label of the transition that is being prepared or done
        self._preparing: threading.Thread | None = None
        # A group of its own: while a transition waits, it must not hold up the callbacks of the others.
        self.transitions = ReentrantCallbackGroup()
        service = self._service_change_state
        self._change_at_once = service.callback
        service.callback, service.callback_group = self._on_change_state, self.transitions
        self.transitions.add_entity(service)

    @property
    def state(self) -> str:
        """Label of the lifecycle state: unconfigured, inactive, active, finalized, or a transition's."""
        return str(self._state_machine.current_state[1])

    def prepare(self, transition: str) -> Callable[[], object] | None:
        """What `transition` (configure, activate, deactivate, …) of the current state has to wait for; None: nothing.

        Called by the executor; what it returns runs in a thread of its own and may raise nothing.
        """

    async def bring_up(self) -> None:
        """Configure and activate, as far as nobody else has begun to."""
        for transition, trigger in (("configure", self.trigger_configure), ("activate", self.trigger_activate)):
            if self.under_way or transition not in self._possible().values():
                return
            if await self._change(transition, trigger) != TransitionCallbackReturn.SUCCESS:
                return

    def destroy_node(self) -> None:
        """Waits for what is being prepared: a library that loads while the interpreter ends would crash the process."""
        if self._preparing:
            self._preparing.join()
        super().destroy_node()

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        asked = request.transition
        if self.under_way:
            name = asked.label or self._possible().get(asked.id, asked.id)
            self.get_logger().warning(f"transition {name} refused: {self.under_way} is under way")
            response.success = False
            return response
        possible = self._possible()
        transition = asked.label if asked.label in possible.values() else possible.get(asked.id, "")
        return await self._change(transition, partial(self._change_at_once, request, response))

    def _possible(self) -> dict[int, str]:
        """{id: label} of the transitions of the current state."""
        return {number: label for number, label, *_ in self._state_machine.available_transitions}

    async def _change(self, transition: str, change: Callable[[], T]) -> T:
        self.under_way = transition or "a transition"
        try:
            work = self.prepare(transition)
            if work is not None:
                await self._aside(work)
            return change()
        finally:
            self.under_way = ""

    def _aside(self, work: Callable[[], object]) -> Future:
        """Do `work` in a thread."""
        done = Future(executor=self.executor)
        done.add_done_callback(lambda _: None)  # wakes the executor, which then goes on with who awaits it

        def run() -> None:
            work()
            with contextlib.suppress(Exception):  # ROS may have ended meanwhile
                done.set_result(None)

        self._preparing = threading.Thread(target=run, name="transition", daemon=True)
        self._preparing.start()
        return done
