"""What a soak has to show, and whether it did. What each key means to a reader stands in docs/soak.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transkd_ros.soak.rounds import Rounds
    from transkd_ros.soak.watch import Watcher

MOST_GROWTH = 2.0  # % of the node's own resident memory
SEGMENT = 17.6  # MB: the shared memory of one camera with config/fastdds.xml
CLOCK_LAG = 0.5  # seconds that /clock may be behind on a busy machine; by it, the node tells a frame's age


def checks(watcher: Watcher, rounds: Rounds, problem: str) -> dict[str, dict[str, Any]]:
    """{what is asked: {"met": bool, "found": …}}; `problem` is why the soak ended early, or ""."""
    from transkd_ros.soak.rounds import AGE_LIMIT

    def check(met: bool, found: Any) -> dict[str, Any]:
        return {"met": met, "found": found}

    settled = warmed_up(rounds.samples)
    memory, shared = (growth([sample[name] for sample in settled]) for name in ("memory_mb", "shared_mb"))
    constant = {name: sorted({sample[name] for sample in settled}) for name in ("threads", "descriptors")}
    ages = {"when begun (s)": round(watcher.oldest_begun, 3), "with its mask (s)": round(watcher.oldest_mask, 3)}
    return {
        "the node neither ended nor fell silent": check(not problem, problem or "as it should"),
        "nothing wrong with any mask or answer": check(not watcher.wrong, dict(watcher.wrong)),
        f"no frame older than {AGE_LIMIT} s is begun": check(
            watcher.oldest_mask > 0 and watcher.oldest_begun <= AGE_LIMIT + CLOCK_LAG, ages
        ),
        "frames in = masks + drops": check(
            bool(rounds.unexplained) and not any(rounds.unexplained),
            {"reckonings": len(rounds.unexplained), "unexplained frames": sum(map(abs, rounds.unexplained))},
        ),
        f"own memory grows less than {MOST_GROWTH:g} %": check(
            bool(memory) and 100 * memory["grown_mb"] < MOST_GROWTH * memory["first_mb"], memory
        ),
        "shared memory grows less than that of one camera": check(
            bool(shared) and shared["grown_mb"] < SEGMENT, shared
        ),
        **{f"{name} constant": check(len(values) == 1, values) for name, values in constant.items()},
    }


def warmed_up(samples: Sequence[dict[str, float]]) -> Sequence[dict[str, float]]:
    """Without the first quarter, but at least the first: allocator and libraries then have the room that they keep."""
    return samples[max(1, len(samples) // 4) :]


def growth(values: Sequence[float]) -> dict[str, float]:
    """From the first to the last, along the straight line that fits all of them; {} where there are fewer than three.

    A single value may lie some MB off: the allocator has given memory back to the system or has not.
    """
    if len(values) < 3:
        return {}
    slope, first = linear_regression(range(len(values)), values)
    grown = slope * (len(values) - 1)
    return {"first_mb": round(first, 1), "last_mb": round(first + grown, 1), "grown_mb": round(grown, 1)}
