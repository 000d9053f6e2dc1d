"""Waiting for a study, with a progress bar."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..core.errors import StudyFailed, WaitTimeout
from ..core.state import StudyState

if TYPE_CHECKING:
    from .study import Study

_GONE_SECONDS = 10.0
"""Seconds of interruption after which waiting ends; chosen, not tuned. An engine may just renew its lease late."""


def wait(study: Study, timeout: float | None) -> None:
    """Wait for a study; see ``Study.wait``."""
    from tqdm.auto import tqdm

    changed = threading.Event()
    follower = study.follow(lambda _: changed.set())
    deadline = None if timeout is None else time.monotonic() + timeout
    state = study.state
    try:
        with tqdm(total=len(state.trials) or None, desc=study.name, unit="trial", leave=False) as bar:
            since = 0.0
            gone = _GONE_SECONDS if state.status == "interrupted" else 0.0
            while not state.has_ended and gone < _GONE_SECONDS:
                _draw(bar, state)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeout(
                        f"study {study.id} is {state.status} after {timeout:g} s: {state.done} of {len(state.trials)} "
                        "trials are done; it goes on"
                    )
                # A lease that runs out changes the state without an event.
                changed.wait(min(1.0, left) if left is not None else 1.0)
                changed.clear()
                state = study.state
                since = since or time.monotonic() if state.status == "interrupted" else 0.0
                gone = time.monotonic() - since if since else 0.0
            _draw(bar, state)
    except KeyboardInterrupt:
        print(f"no longer waiting; study {study.id} goes on (study.cancel() stops it)")
        return
    finally:
        follower.stop()
    if state.status != "finished":
        raise StudyFailed(_why(study, state))


def _draw(bar: object, state: StudyState) -> None:
    bar.total = len(state.trials) or None  # type: ignore[attr-defined]
    bar.n = state.done + state.failed + state.cut  # type: ignore[attr-defined]
    text = state.log[-1].text if state.log else state.message or state.status
    bar.set_postfix_str(text[:60])  # type: ignore[attr-defined]


def _why(study: Study, state: StudyState) -> str:
    if state.status == "failed":
        return f"study {study.id} failed: {state.error}"
    if state.status == "cancelled":
        return f"study {study.id} was cancelled with {state.done} trials done; study.resume() goes on"
    return f"study {study.id} was interrupted with {state.done} trials done; study.resume() goes on"
