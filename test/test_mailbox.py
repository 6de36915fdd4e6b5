"""The mailbox keeps the newest item of each key and hands the keys out in turn."""

import threading

from transkd_ros.mailbox import Mailbox


def test_a_newer_item_displaces_the_older_one_of_its_key():
    mailbox = Mailbox()
    assert not mailbox.put("front", 1)
    assert mailbox.put("front", 2)
    assert mailbox.take(0) == [("front", 2)]
    assert mailbox.take(0) == []
    assert not mailbox.put("front", 3)


def test_a_fast_camera_cannot_starve_a_slow_one():
    mailbox = Mailbox()
    mailbox.put("fast", 0)
    mailbox.put("slow", 0)
    served = []
    for i in range(1, 4):
        mailbox.put("fast", i)
        served += mailbox.take(0)
        mailbox.put("fast", i + 10)
        served += mailbox.take(0)
        mailbox.put("slow", i)
    assert served == [("fast", 1), ("slow", 0), ("fast", 2), ("slow", 1), ("fast", 3), ("slow", 2)]


def test_several_keys_are_served_at_once_in_turn_and_each_with_its_newest():
    mailbox = Mailbox()
    for number, key in enumerate(("a", "b", "a", "c")):
        mailbox.put(key, number)
    assert mailbox.take(0, most=2) == [("a", 2), ("b", 1)]
    mailbox.put("a", 4)
    assert mailbox.take(0, most=9) == [("c", 3), ("a", 4)]


def run_taker(mailbox, ready):
    """Start a thread that takes without a time limit; returns it and the list its result goes to."""
    taken = []

    def take():
        ready.set()
        taken.append(mailbox.take())

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread, taken


def test_put_wakes_a_waiting_taker():
    mailbox, ready = Mailbox(), threading.Event()
    thread, taken = run_taker(mailbox, ready)
    ready.wait()
    mailbox.put("front", "frame")
    thread.join(10)
    assert taken == [[("front", "frame")]]


def test_close_wakes_every_taker_and_ends_all_service():
    mailbox = Mailbox()
    takers = []
    for _ in range(3):
        ready = threading.Event()
        takers.append(run_taker(mailbox, ready))
        ready.wait()
    mailbox.close()
    for thread, taken in takers:
        thread.join(10)
        assert taken == [[]]
    assert not mailbox.put("front", 1)
    assert mailbox.take() == []


def test_close_drops_what_waits():
    mailbox = Mailbox()
    mailbox.put("front", 1)
    mailbox.close()
    assert mailbox.take() == []


def test_no_item_is_lost_or_served_twice_between_threads():
    mailbox, displaced, count = Mailbox(), [], 2000
    done = threading.Barrier(3)

    def produce(key):
        displaced.extend(key for i in range(count) if mailbox.put(key, i))
        done.wait(10)

    for key in ("left", "right"):
        threading.Thread(target=produce, args=(key,), daemon=True).start()
    last, served = {"left": -1, "right": -1}, 0
    while last != {"left": count - 1, "right": count - 1}:
        ((key, item),) = mailbox.take(10)
        assert item > last[key]
        last[key] = item
        served += 1
    done.wait(10)
    assert served + len(displaced) == 2 * count
