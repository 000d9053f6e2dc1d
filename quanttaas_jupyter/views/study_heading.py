"""Heading of a study in plain text: where it runs, its problems, and its progress."""

from __future__ import annotations

from typing import NamedTuple

from ..core.state import StudyState, seconds_left
from . import format as fmt
from .summary import summary


class Notice(NamedTuple):
    """Sentence with its weight (``verdict``, ``calm``, ``warn`` or ``bad``); ``lead`` precedes it in bold."""

    kind: str
    text: str
    lead: str = ""

    @property
    def sentence(self) -> str:
        """Lead and text together."""
        return f"{self.lead} {self.text}".strip()


class Part(NamedTuple):
    """Part of a progress bar: ``done``, ``cut``, ``half`` (latency is missing) or ``bad``."""

    kind: str
    percent: float


class Progress(NamedTuple):
    """Progress bar with its words, each with a weight; ``label`` says what it counts, or is empty."""

    parts: tuple[Part, ...]
    percent: float
    words: tuple[Notice, ...]
    label: str = ""


def capital(sentence: str) -> str:
    """Return a sentence with a capital first letter."""
    return sentence[:1].upper() + sentence[1:]


def place(state: StudyState) -> str:
    """Return where a study runs, such as ``running on this machine (2 slots)``."""
    where = "this machine" if state.cluster == "local" else state.cluster
    slots = f" ({state.slots} slot{'s' * (state.slots != 1)})" if state.slots else ""
    return f"{'running on' if state.status == 'running' else 'on'} {where}{slots}"


def notices(state: StudyState) -> list[Notice]:
    """Return the outcome of a study, or its problems and what to do; an empty list if it runs well."""
    shown = []
    if state.unreachable_since is not None:
        seen = fmt.clock(state.unreachable_since)
        shown.append(Notice("warn", f"The store cannot be reached: last seen {seen}, trying again."))
    if state.status == "finished":
        shown.append(Notice("verdict", "", capital(state.recommendation or f"Finished: {summary(state)}.")))
    elif state.status == "failed":
        reason = state.error or state.message or "no reason was recorded; see the log"
        shown.append(Notice("bad", capital(reason), "The study failed."))
    elif state.status == "cancelled":
        reason = f"{capital(state.message)} " if state.message else ""
        shown.append(Notice("calm", f"{reason}Resume goes on from here.", "Cancelled."))
    elif state.status == "interrupted":
        reason = capital(state.message or "the engine stopped; resume goes on from here")
        shown.append(Notice("warn", f"{reason}.", "Interrupted."))
    elif state.status == "queued":
        since = f" since {fmt.clock(state.created)}" if state.created else ""
        shown.append(Notice("calm", f"{capital(state.message or 'waiting for an engine')}{since}."))
    elif state.waiting and state.waiting_since is not None:
        shown.append(Notice("calm", f"Waiting for {state.waiting} since {fmt.clock(state.waiting_since)}."))
    return shown


def progress(state: StudyState) -> Progress:
    """Return trials done and failed, running stages and time left; before there are trials, the share that was sent."""
    total = len(state.trials)
    if not total:
        return _sending(state)
    measured = sum(trial.status == "measured" for trial in state.trials.values())
    counts = (("done", state.done), ("cut", state.cut), ("half", measured), ("bad", state.failed))
    return Progress(
        parts=tuple(Part(kind, 100 * number / total) for kind, number in counts),
        percent=100 * (state.done + state.failed + state.cut) / total,
        words=tuple(_counted(state)),
        label="trials done",
    )


def _counted(state: StudyState) -> list[Notice]:
    words = [Notice("calm", f"{state.done} of {len(state.trials)} trials")]

    def add(text: str, kind: str = "calm") -> None:
        words.append(Notice(kind, text))

    if state.status == "running" and state.running:
        add(f"{len(state.running)} running")
    if state.failed:
        add(f"{state.failed} failed", "bad")
    if state.cut:
        add(f"{state.cut} cut early")
    if left := fmt.time_left(seconds_left(state)):
        add(left)
    elif state.status != "running":
        add(state.status)
    if state.has_ended and state.ended and state.started:
        add(f"took {fmt.duration(state.ended - state.started)}")
    if state.cost:
        add(f"{fmt.money(state.cost)} so far" if not state.has_ended else f"cost {fmt.money(state.cost)}")
    if state.stages_cached:
        add(f"{state.stages_cached} stages from the cache")
    return words


def _sending(state: StudyState) -> Progress:
    if state.sent is None:
        return Progress((), 0.0, (Notice("calm", state.status),))
    percent = 100 * state.sent
    return Progress((Part("done", percent),), percent, (Notice("calm", f"{fmt.share(state.sent)} sent"),), "sent")
