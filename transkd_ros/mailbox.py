"""Latest-item-only hand-over between the threads that receive frames and the one that works on them."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds at most one item per key, the newest; any thread may put and take.

    Keys are served in turn: a key joins the end of the queue when its first item arrives, and keeps its place
    when a newer item replaces that one. So a fast camera cannot starve a slow one.
    """

    def __init__(self) -> None:
        self._items: dict[Hashable, Item] = {}  # a dict remembers the order in which keys arrived
        self._changed = threading.Condition()
        self._closed = False

    def put(self, key: Hashable, item: Item) -> bool:
        """Leave `item` for `key`; True if it displaced an older one. After close() it is ignored."""
        with self._changed:
            if self._closed:
                return False
            displaced = key in self._items
            self._items[key] = item
            self._changed.notify()
            return displaced

    def take(self, timeout: float | None = None, most: int = 1) -> list[tuple[Hashable, Item]]:
        """The items of the next keys, `most` of those that are there; none after `timeout` seconds without one, or once
        the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            return [(key, self._items.pop(key)) for key in list(self._items)[:most]]

    def close(self) -> list[Item]:
        """Wake every taker; from now on take() returns nothing at once and put() does nothing. What still waited."""
        with self._changed:
            self._closed = True
            left = list(self._items.values())
            self._items.clear()
            self._changed.notify_all()
            return left
