"""Events -> StudyState: a pure fold. Every view draws from the state and from nothing else.

Events are mappings with ``seq`` (1, 2, ...), ``time`` (seconds since the epoch) and ``type``:

========================  ==========================================================================
type                      content
========================  ==========================================================================
``started``               ``engine``, ``slots``, ``trials`` [{name, config}], ``stages`` {kind: count to
                          run}, ``cached``, ``metric``, ``goal``, ``notes``; again after a resume
``preview``               ``metrics`` of the model in eager PyTorch: a first point, no trial
``sensitivity``           ``of`` (``prune``, ``quantize@RUNTIME``), ``ranking`` [[layer, SQNR in dB]], worst first
``trial_proposed``        ``trial``, ``config``, ``stages`` {kind: count} that it adds; by a search
``stage_started``         ``stage``, ``kind``, ``label``
``progress``              ``stage``, ``label``, ``message``
``stage_finished``        ``stage``, ``kind``, ``label``, ``began`` (seconds since the epoch), ``seconds``
``stage_retried``         ``stage``, ``label``, ``reason``
``stage_failed``          ``stage``, ``kind``, ``label``, ``reason``
``trial_measured``        ``trial``, ``metrics`` so far (latency is still missing), ``artifact``; ``of_samples``
                          while ``metrics`` rest on fewer samples than these
``trial_finished``        ``trial``, ``metrics``, ``artifact``, ``warnings``
``trial_failed``          ``trial``, ``error`` {reason, hint}
``trial_cut``             ``trial``, ``error`` {reason, hint}: a search stopped it early
``finished``              ``recommendation``, ``usage``
``waiting``               ``what`` stages wait for, such as "a GPU node"; empty when the wait is over
``cost``                  ``amount`` that the cluster cost so far, in the unit of its configured prices
``released``              ``reason``: the engine ended and gave the study back; a resume continues it
``cancelled``, ``failed`` ``reason``
========================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .records.artifact import Artifact
from .records.trial import TrialConfig

Event = Mapping[str, Any]
Metrics = Mapping[str, "float | int | None"]

LOG_LINES = 200
"""Number of log lines that a state keeps; chosen, not tuned. More lines make each update of a view slower."""
ENDED = ("finished", "cancelled", "failed")


@dataclass(frozen=True)
class TrialState:
    """One trial; ``status`` is waiting, measured, finished, failed, cut (stopped early by a search) or cancelled.

    ``of_samples`` is the number of samples that its evaluation will have seen, while it has seen fewer.
    """

    name: str
    config: TrialConfig
    status: str = "waiting"
    metrics: Metrics = field(default_factory=dict)
    artifact: Artifact | None = None
    error: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()
    of_samples: int | None = None

    @property
    def is_partial(self) -> bool:
        """Whether its numbers rest on a part of the samples, since its evaluation goes on."""
        return self.of_samples is not None

    @property
    def is_baseline(self) -> bool:
        """Whether this trial is the baseline: the unchanged model in its runtime."""
        return self.config.is_baseline


@dataclass(frozen=True)
class LogLine:
    """One line of a study's log; ``time`` is in seconds since the epoch."""

    time: float
    text: str
    level: str = "info"


@dataclass(frozen=True)
class StudyState:
    """State of a study: all data that a view needs to draw it.

    ``status`` is queued, running, finished, cancelled, failed or interrupted. The fold never sets ``interrupted``,
    because that depends on the lease (see ``with_lease``). A reader that lost the connection to the store sets
    ``unreachable_since``; a client that uploads sets ``sent``, from 0 to 1. All times are in seconds since the epoch.
    """

    id: str
    name: str = ""
    status: str = "queued"
    message: str = ""
    seq: int = 0
    created: float = 0.0
    started: float | None = None
    updated: float | None = None
    ended: float | None = None
    cluster: str = "local"
    engine: str = ""
    slots: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    metric: Mapping[str, Any] = field(default_factory=dict)
    goal: Mapping[str, Any] = field(default_factory=dict)
    trials: Mapping[str, TrialState] = field(default_factory=dict)
    preview: Metrics = field(default_factory=dict)
    sensitivity: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    running: Mapping[str, str] = field(default_factory=dict)
    stages_left: Mapping[str, int] = field(default_factory=dict)
    stages_done: int = 0
    stages_cached: int = 0
    stage_seconds: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    understanding: str = ""
    log: tuple[LogLine, ...] = ()
    recommendation: str = ""
    usage: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    unreachable_since: float | None = None
    sent: float | None = None
    waiting: str = ""
    waiting_since: float | None = None
    cost: float = 0.0

    @property
    def done(self) -> int:
        """Number of trials that finished with a result."""
        return self._count("finished")

    @property
    def failed(self) -> int:
        """Number of trials that failed."""
        return self._count("failed")

    @property
    def cut(self) -> int:
        """Number of trials that a search stopped early."""
        return self._count("cut")

    @property
    def has_ended(self) -> bool:
        """Whether the study has ended; only a resume can produce more events."""
        return self.status in ENDED

    def _count(self, status: str) -> int:
        return sum(trial.status == status for trial in self.trials.values())


def fold(events: Iterable[Event], state: StudyState) -> StudyState:
    """Apply events in order; see ``apply``."""
    for event in events:
        state = apply(state, event)
    return state


def apply(state: StudyState, event: Event) -> StudyState:
    """Return the state after one event.

    An event that was already applied, or that comes after a gap, changes nothing. An unknown type only increases
    ``seq``, so that an older reader can follow a newer engine.
    """
    if event["seq"] != state.seq + 1:
        return state
    state = replace(state, seq=event["seq"], updated=event["time"])
    handler = _HANDLERS.get(event["type"])
    return handler(state, event) if handler else state


def with_lease(state: StudyState, lease_until: float | None, queued: bool, now: float) -> StudyState:
    """Return the state with the status that events alone cannot tell: running, interrupted or queued.

    Args:
        state: The folded events.
        lease_until: When the lease runs out, in seconds since the epoch; None if the study never had one.
        queued: Whether the study is in a queue.
        now: The present, in seconds since the epoch.
    """
    held = lease_until is not None and lease_until > now
    if held:
        return state if state.has_ended and not queued else replace(state, status="running")
    if queued:
        return replace(state, status="queued", message=state.message or "waiting for an engine")
    if state.has_ended:
        return state
    if lease_until is None and state.seq == 0:
        return state
    why = state.message if state.status == "running" else ""
    return replace(state, status="interrupted", message=f"{why or 'the engine stopped'}; resume goes on from here")


def seconds_left(state: StudyState) -> float | None:
    """Return the estimated seconds until the study ends, from the mean durations of finished stages, or None."""
    if state.status != "running" or not state.stage_seconds or not state.slots:
        return None
    counts = sum(count for count, _ in state.stage_seconds.values())
    overall = sum(seconds for _, seconds in state.stage_seconds.values()) / counts
    total = 0.0
    for kind, left in state.stages_left.items():
        count, seconds = state.stage_seconds.get(kind, (0, 0.0))
        total += left * (seconds / count if count else overall)
    return total / state.slots


def _started(state: StudyState, event: Event) -> StudyState:
    trials = dict(state.trials)
    for item in event["trials"]:
        known = trials.get(item["name"])
        if known is None or known.status not in ("finished", "cut"):
            trials[item["name"]] = TrialState(item["name"], TrialConfig.of(item["config"]))
    return replace(
        state,
        status="running",
        message="",
        error="",
        ended=None,
        recommendation="",
        started=state.started or event["time"],
        engine=event.get("engine", ""),
        slots=event.get("slots", 0),
        metric=event.get("metric", {}),
        goal=event.get("goal", {}),
        trials=trials,
        running={},
        stages_left=dict(event.get("stages", {})),
        stages_cached=event.get("cached", 0),
        notes=tuple(event.get("notes", ())),
    )


def _preview(state: StudyState, event: Event) -> StudyState:
    return replace(state, preview=dict(event["metrics"]))


def _sensitivity(state: StudyState, event: Event) -> StudyState:
    ranking = tuple((str(layer), float(decibels)) for layer, decibels in event["ranking"])
    return replace(state, sensitivity={**state.sensitivity, event["of"]: ranking})


def _trial_proposed(state: StudyState, event: Event) -> StudyState:
    name = event["trial"]
    left = dict(state.stages_left)
    for kind, count in event.get("stages", {}).items():
        left[kind] = left.get(kind, 0) + count
    trials = {**state.trials, name: TrialState(name, TrialConfig.of(event["config"]))}
    return _log(replace(state, trials=trials, stages_left=left), event, f"{name} proposed")


def _stage_started(state: StudyState, event: Event) -> StudyState:
    running = {**state.running, event["stage"]: event["label"]}
    return _log(replace(state, running=running), event, event["label"])


def _progress(state: StudyState, event: Event) -> StudyState:
    return _log(state, event, f"{event['label']}: {event['message']}")


def _stage_finished(state: StudyState, event: Event) -> StudyState:
    kind, seconds = event["kind"], float(event.get("seconds", 0.0))
    count, total = state.stage_seconds.get(kind, (0, 0.0))
    return replace(
        _leave(state, event),
        stages_done=state.stages_done + 1,
        stage_seconds={**state.stage_seconds, kind: (count + 1, total + seconds)},
    )


def _stage_retried(state: StudyState, event: Event) -> StudyState:
    return _log(state, event, f"{event['label']}: trying again, {event['reason']}", "warning")


def _stage_failed(state: StudyState, event: Event) -> StudyState:
    return _log(_leave(state, event), event, f"{event['label']} failed: {event['reason']}", "error")


def _trial_measured(state: StudyState, event: Event) -> StudyState:
    return _trial(state, event, status="measured", of_samples=event.get("of_samples"))


def _trial_finished(state: StudyState, event: Event) -> StudyState:
    return _trial(
        state, event, status="finished", warnings=tuple(event.get("warnings", ())), error=None, of_samples=None
    )


def _trial(state: StudyState, event: Event, **changes: Any) -> StudyState:
    artifact = event.get("artifact")
    trial = replace(
        _trial_of(state, event),
        metrics=dict(event["metrics"]),
        artifact=Artifact.of(artifact) if artifact else None,
        **changes,
    )
    return replace(state, trials={**state.trials, trial.name: trial})


def _trial_of(state: StudyState, event: Event) -> TrialState:
    """Return the trial of an event; a search may have added it without a proposal."""
    name = event["trial"]
    return state.trials.get(name) or TrialState(name, TrialConfig.of(event.get("config", {})))


def _trial_failed(state: StudyState, event: Event) -> StudyState:
    trial, error = _trial_of(state, event), event["error"]
    failed = replace(trial, status="failed", error=dict(error))
    state = replace(state, trials={**state.trials, trial.name: failed})
    return _log(state, event, f"{trial.name} failed: {error['reason']}", "error")


def _trial_cut(state: StudyState, event: Event) -> StudyState:
    trial, error = _trial_of(state, event), event["error"]
    cut = replace(trial, status="cut", error=dict(error))
    return _log(replace(state, trials={**state.trials, trial.name: cut}), event, f"{trial.name}: {error['reason']}")


def _waiting(state: StudyState, event: Event) -> StudyState:
    what = event["what"]
    changed = replace(state, waiting=what, waiting_since=event["time"] if what else None)
    return _log(changed, event, f"waiting for {what}" if what else f"{state.waiting} is there")


def _cost(state: StudyState, event: Event) -> StudyState:
    return replace(state, cost=float(event["amount"]))


def _released(state: StudyState, event: Event) -> StudyState:
    changed = replace(state, status="running", message=event["reason"], running={}, waiting="", waiting_since=None)
    return _log(changed, event, event["reason"], "warning")


def _finished(state: StudyState, event: Event) -> StudyState:
    return _end(
        replace(
            state,
            recommendation=event.get("recommendation", ""),
            usage=dict(event.get("usage", {})),
            cost=float(event.get("usage", {}).get("cost", state.cost)),
        ),
        event,
        "finished",
    )


def _cancelled(state: StudyState, event: Event) -> StudyState:
    return _end(state, event, "cancelled")


def _failed(state: StudyState, event: Event) -> StudyState:
    return _end(replace(state, error=event.get("reason", "")), event, "failed")


def _end(state: StudyState, event: Event, status: str) -> StudyState:
    trials = {name: _left_off(trial) for name, trial in state.trials.items()}
    return replace(
        state,
        status=status,
        message=event.get("reason", ""),
        ended=event["time"],
        trials=trials,
        running={},
        stages_left={},
        waiting="",
        waiting_since=None,
    )


def _left_off(trial: TrialState) -> TrialState:
    """Return a trial as the end of its study leaves it: numbers of some of the samples are none."""
    if trial.status not in ("waiting", "measured"):
        return trial
    metrics = {} if trial.is_partial else trial.metrics
    return replace(trial, status="cancelled", metrics=metrics, of_samples=None)


def _leave(state: StudyState, event: Event) -> StudyState:
    running = {key: label for key, label in state.running.items() if key != event["stage"]}
    left = dict(state.stages_left)
    left[event["kind"]] = max(0, left.get(event["kind"], 0) - 1)
    return replace(state, running=running, stages_left=left)


def _log(state: StudyState, event: Event, text: str, level: str = "info") -> StudyState:
    return replace(state, log=(*state.log, LogLine(event["time"], text, level))[-LOG_LINES:])


_HANDLERS = {
    "started": _started,
    "preview": _preview,
    "sensitivity": _sensitivity,
    "trial_proposed": _trial_proposed,
    "stage_started": _stage_started,
    "progress": _progress,
    "stage_finished": _stage_finished,
    "stage_retried": _stage_retried,
    "stage_failed": _stage_failed,
    "trial_measured": _trial_measured,
    "trial_finished": _trial_finished,
    "trial_failed": _trial_failed,
    "trial_cut": _trial_cut,
    "waiting": _waiting,
    "cost": _cost,
    "released": _released,
    "finished": _finished,
    "cancelled": _cancelled,
    "failed": _failed,
}
