"""Bisection for the number of sensitive layers that must stay in higher precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...core.failures import StageError
from . import QuantizeJob


def fewest_kept(
    job: QuantizeJob, ranked: Sequence[str], write: Callable[[Sequence[str]], Path]
) -> tuple[int, float | None]:
    """Return the number of layers from the head of a ranking to keep: ``job.keep``, or as few as the goal allows.

    Args:
        job: Holds the allowed drop and the judge.
        ranked: Layers, the most sensitive first.
        write: Writes the artifact in which these layers are kept, and returns the path that the judge opens.

    Returns:
        The number, and the drop on calibration data if it was evaluated. The last written artifact may be another.

    Raises:
        StageError: There is no judge, or only keeping all layers would meet the goal.
    """
    drops: dict[int, float] = {}
    low, high = 0, len(ranked)
    if job.keep is not None:
        low = min(job.keep, len(ranked))
    elif job.judge is None:
        raise StageError("nothing decides how many layers to keep", "say how many with 'keep'")
    else:
        while low < high:
            # Most models need few kept layers or none, so the first guesses are small.
            kept = min((low + high) // 2, 2 * low)
            drops[kept] = job.judge.drop(write(ranked[:kept]))
            job.report(f"{kept} of {len(ranked)} layers kept: {drops[kept]:.4f} lost on calibration data")
            low, high = (low, kept) if drops[kept] <= job.max_drop else (kept + 1, high)
    if low == len(ranked):
        raise StageError(
            f"no layer can be int8 with a loss of at most {job.max_drop:g} on calibration data",
            "allow a larger max_drop, prune less, or use int8-weight or fp16",
        )
    return low, drops.get(low)
