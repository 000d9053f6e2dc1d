"""Driver of one study: a search proposes trials, a schedule runs their stages, the driver writes the events."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil

from ..compute.executors.base import Executor
from ..core.config import EngineConfig
from ..core.errors import StoreError
from ..core.failures import explain
from ..core.frontier import best_trial
from ..core.records.artifact import Artifact
from ..core.records.stage import StageResult
from ..core.records.study import StudyRecord
from ..core.records.trial import TrialConfig
from ..core.state import StudyState, TrialState
from ..planning.plan import Planner, TrialPlan
from ..planning.search import Observations, Outcome, make_search
from ..store.base import Store
from ..study_store import records, stage_cache
from ..study_store.lease import Lease
from .report import metrics_of, recommendation, warnings_of
from .schedule import Ended, Schedule

_TICK = 0.1
"""Seconds to wait for stages before the lease, stops and cancellation are checked; chosen, not tuned."""
_CANCEL_EVERY = 0.5
"""Seconds between two looks for a cancel mark in the store; chosen, not tuned. Smaller costs more requests."""
_COST_EVERY = 15.0
"""Seconds between two events with the cost; chosen, not tuned. Smaller makes the event log longer."""
_INTERVAL = 3.92
"""Width of a 95 % interval in standard errors, twice 1.96."""
_MOST_KEPT = 50
"""Names of kept layers in an event; chosen, not tuned. Views show a few of them."""

log = logging.getLogger(__name__)


_LEVELS = {
    "failed": logging.ERROR,
    "stage_failed": logging.ERROR,
    "stage_retried": logging.WARNING,
    "progress": logging.DEBUG,
}


class LeaseLost(Exception):
    """Another engine drives the study."""


class Stopped(Exception):
    """The engine stops; the study is given back, and can be resumed."""


class Cancelled(Exception):
    """The user cancelled the study."""


class Driver:
    """Drives one study from the lease to its last event."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        lease: Lease,
        executor: Executor,
        config: EngineConfig,
        engine: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._store, self._record, self._lease = store, record, lease
        self._executor, self._config, self._engine = executor, config, engine
        self._is_stopping = is_stopping
        self._events = records.EventWriter(store, record.id)
        self._open: dict[str, TrialPlan] = {}
        self._errors: dict[str, dict[str, str]] = {}
        self._cancel_checked = 0.0
        self._is_over = self._is_replay = False
        self._begun = time.time()
        self._cpu_begun = _cpu_seconds()
        self._reported_waiting = ""
        self._cost, self._cost_at, self._cost_reported = self._events.state.cost, time.monotonic(), 0.0
        self._schedule: Schedule | None = None

    def run(self) -> None:
        """Drive the study until it has ended, or until the lease is lost or given back.

        Raises:
            StoreError: The store cannot be reached. The study has not ended: another driver can continue it.
        """
        try:
            with self._lease.kept():
                self._drive()
        except (LeaseLost, records.LogTaken):
            log.warning("another engine drives the study now")
            self._stop()
            return
        except records.StudyGone:
            log.warning("the study was deleted")
            self._stop()
            return
        except StoreError:
            self._stop()
            raise
        except Stopped:
            self._stop()
            self._append("released", reason="the engine was told to end")
        except Cancelled:
            self._stop()
            self._append("cancelled", reason="cancelled on request")
        except Exception as error:
            log.exception("the study failed")
            self._stop()
            self._append("failed", reason=explain(error)["reason"])
        self._summarize()
        self._lease.release()

    def _drive(self) -> None:
        # The device is needed first: keys of measurements depend on it.
        while (device := self._executor.device()) is None:
            self._do_periodic_work()
            time.sleep(_TICK)
        self._planner = Planner(self._record, device)
        self._plan = self._planner.plan
        self._search = make_search(self._planner.recipe)
        self._schedule = schedule = Schedule(
            self._plan, self._store, self._executor, self._config, self._append, int(self._record.model.get("bytes", 0))
        )
        self._begin(schedule)
        while schedule.is_busy:
            self._do_periodic_work()
            ended = schedule.collect(_TICK)
            for item in ended:
                self._record_failure(schedule, item)
            if ended:
                self._advance(schedule)
            self._report_interim(schedule)
            if self._is_out_of_time() and not self._is_over:
                self._is_over = True
                schedule.finish_early()
        self._end()

    def _do_periodic_work(self) -> None:
        """Do the periodic work: check lease, stop and cancel mark, and report waiting and cost.

        Raises:
            LeaseLost: Another engine took the lease.
            Stopped: The engine stops.
            Cancelled: The user cancelled the study.
        """
        if self._lease.is_lost:
            raise LeaseLost
        if self._is_stopping():
            raise Stopped
        now = time.monotonic()
        if now - self._cancel_checked >= _CANCEL_EVERY:
            self._cancel_checked = now
            if records.is_cancelled(self._store, self._record.id):
                raise Cancelled
        waiting = self._executor.waits_for()
        if waiting != self._reported_waiting:
            self._reported_waiting = waiting
            self._append("waiting", what=waiting)
        self._count_cost(now)

    def _count_cost(self, now: float) -> None:
        """Add the cluster's cost since the last call, and report the sum from time to time."""
        self._cost += self._executor.rate() * (now - self._cost_at) / 3600
        self._cost_at = now
        if self._cost and now - self._cost_reported >= _COST_EVERY:
            self._cost_reported = now
            self._append("cost", amount=self._cost)

    def _begin(self, schedule: Schedule) -> None:
        """Plan the first trials; after a resume, all trials that were proposed before."""
        known = self._events.state.trials
        for name, trial in known.items():
            self._planner.add(trial.config, name)
        replayed = self._proposals_of_before() if self._search.is_adaptive else None
        self._is_replay = replayed is not None
        for config in replayed or self._search.start():
            if not any(trial.config == config for trial in self._plan.trials.values()):
                self._planner.add(config)
        if self._search.is_adaptive:
            self._planner.rank_layers()
        cut = {name for name, trial in known.items() if trial.status == "cut"}
        self._open = {name: trial for name, trial in self._plan.trials.items() if name not in cut}
        schedule.want([self._plan.preview, *self._plan.rankings.values(), *self._targets(self._open.values())])
        self._announce(schedule)
        self._advance(schedule)
        self._summarize()

    def _advance(self, schedule: Schedule) -> None:
        """Report new results, let the search propose, and submit stages that are ready, until nothing is new."""
        is_news = True
        while is_news:
            self._report_preview(schedule)
            self._report_rankings(schedule)
            self._report_trials(schedule)
            if self._search.is_adaptive and not self._is_over and not self._is_replay:
                self._cut_hopeless(schedule)
                self._propose(schedule)
            is_news = schedule.submit_ready()

    def _announce(self, schedule: Schedule) -> None:
        self._append(
            "started",
            engine=self._engine,
            slots=self._executor.slots,
            trials=[{"name": trial.name, "config": trial.config.stored()} for trial in self._plan.trials.values()],
            stages=self._counts(schedule.wanted),
            cached=len(self._plan.stages) - len(schedule.wanted),
            metric={key: self._record.metric[key] for key in ("name", "higher_is_better", "percent")},
            goal=self._record.goal,
            notes=self._record.notes,
        )

    def _record_failure(self, schedule: Schedule, ended: Ended) -> None:
        if ended.error is None:
            return
        stage, reason = ended.stage, ended.error
        self._errors[stage.key] = reason
        lost = {key for key in schedule.wanted if any(s.key == stage.key for s in self._plan.chain(key))}
        schedule.wanted -= lost
        for trial in list(self._open.values()):
            if lost & set(trial.targets):
                del self._open[trial.name]
                where = {} if stage.key in trial.targets else {"reason": f"{stage.label} failed: {reason['reason']}"}
                self._append("trial_failed", trial=trial.name, config=trial.config.stored(), error={**reason, **where})
        self._forget_unneeded(schedule)

    def _forget_unneeded(self, schedule: Schedule) -> None:
        """Forget stages that only failed or cut trials needed."""
        rankings = [key for key in self._plan.rankings.values() if key not in self._errors]
        schedule.keep_only([self._plan.preview, *rankings, *self._targets(self._open.values())])

    def _targets(self, trials: Iterable[TrialPlan]) -> list[str]:
        return [key for trial in trials for key in trial.targets]

    def _report_preview(self, schedule: Schedule) -> None:
        if self._plan.preview in schedule.results and not self._events.state.preview:
            self._append("preview", metrics=schedule.results[self._plan.preview].measurements)

    def _report_rankings(self, schedule: Schedule) -> None:
        for of, key in self._plan.rankings.items():
            if key in schedule.results and of not in self._events.state.sensitivity:
                self._append("sensitivity", of=of, ranking=schedule.results[key].ranking)

    def _propose(self, schedule: Schedule) -> None:
        proposed = self._search.propose(self._observations(schedule), self._executor.slots)
        fresh = [self._planner.add(config) for config in proposed]
        for trial in fresh:
            self._open[trial.name] = trial
            stages = self._counts(schedule.want(trial.targets))
            self._append("trial_proposed", trial=trial.name, config=trial.config.stored(), stages=stages)
        if fresh:
            self._report_trials(schedule)

    def _cut_hopeless(self, schedule: Schedule) -> None:
        observations = self._observations(schedule)
        for outcome in observations.outcomes:
            trial = self._open.get(outcome.name)
            if trial is None or outcome.drop is not None:
                continue
            if (reason := self._search.why_hopeless(observations, outcome)) is not None:
                del self._open[trial.name]
                error = {"reason": reason, "hint": ""}
                self._append("trial_cut", trial=trial.name, config=trial.config.stored(), error=error)
        self._forget_unneeded(schedule)

    def _observations(self, schedule: Schedule) -> Observations:
        results = schedule.results
        outcomes = [self._outcome(schedule, trial) for trial in self._plan.trials.values()]
        rankings = {of: results[key].ranking or () for of, key in self._plan.rankings.items() if key in results}
        baselines = [trial for trial in self._plan.trials.values() if trial.is_baseline]
        weights = next((results[t.build].weights for t in baselines if t.build in results), None)
        return Observations(tuple(outcomes), rankings, weights)

    def _outcome(self, schedule: Schedule, trial: TrialPlan) -> Outcome:
        results = schedule.results
        status = self._events.state.trials[trial.name].status if trial.name not in self._open else "waiting"
        baseline = self._plan.baseline_of(trial)
        built, judged, timed = (results.get(key) for key in (trial.build, trial.guide, trial.latency))
        original, screened = results.get(baseline.build), results.get(trial.screen)
        return Outcome(
            name=trial.name,
            config=trial.config,
            is_lost=status in ("failed", "cut"),
            drop=judged.measurements["drop"] if judged else None,
            standard_error=_standard_error(judged) if judged else 0.0,
            size_ratio=_size(built) / _size(original) if built and original else None,
            # An artifact that cannot run here counts as neither faster nor slower; a search must not wait for it.
            latency_ratio=1 / (timed.measurements["speedup"] or 1.0) if timed else None,
            screen=screened.measurements["screen_drop"] if screened else None,
        )

    def _report_trials(self, schedule: Schedule) -> None:
        results = schedule.results
        for trial in list(self._open.values()):
            baseline = self._plan.baseline_of(trial)
            needed = (trial.build, trial.evaluate, baseline.build, *filter(None, (trial.guide,)))
            if any(key not in results for key in needed):
                continue
            is_timed = trial.latency in results
            known = self._events.state.trials[trial.name]
            if known.status == "finished" and self._is_current(schedule, trial, known):
                del self._open[trial.name]
                continue
            if known.status == "measured" and not is_timed and not known.is_partial:
                continue
            self._append_trial(schedule, trial, results[trial.evaluate], is_timed)
            if is_timed:
                del self._open[trial.name]
                self._summarize()

    def _report_interim(self, schedule: Schedule) -> None:
        """Report what evaluations measured so far of trials that have no numbers yet."""
        interim, schedule.interim = schedule.interim, {}
        for trial in self._open.values():
            measured, baseline = interim.get(trial.evaluate), self._plan.baseline_of(trial)
            known = self._events.state.trials[trial.name]
            is_known = known.status != "waiting" and not known.is_partial
            if measured is None or is_known or not {trial.build, baseline.build} <= schedule.results.keys():
                continue
            self._append_trial(schedule, trial, measured, is_timed=False)

    def _is_current(self, schedule: Schedule, trial: TrialPlan, known: TrialState) -> bool:
        """Return whether a trial's reported artifact is the present one; one that was built again may differ."""
        blob = schedule.results[trial.build].blobs["artifact"]
        return known.artifact is not None and known.artifact.blob == blob

    def _append_trial(self, schedule: Schedule, trial: TrialPlan, judged: StageResult, is_timed: bool) -> None:
        results = schedule.results
        built = results[trial.build]
        artifact = Artifact(
            blob=built.blobs["artifact"],
            size=_size(built),
            filename=f"{trial.name.replace(':', '-').replace('@', '-')}{built.suffix}",
            runtime=trial.config.runtime,
            kept=built.kept[:_MOST_KEPT],
            choices=built.choices,
            signature=built.signature,
        )
        metrics = metrics_of(
            built,
            judged,
            results.get(trial.latency),
            results[self._plan.baseline_of(trial).build],
            results.get(trial.guide),
            seconds=schedule.seconds(trial.targets),
        )
        self._append(
            "trial_finished" if is_timed else "trial_measured",
            trial=trial.name,
            config=trial.config.stored(),
            metrics=metrics,
            artifact=artifact.stored(),
            **_progress(judged),
            warnings=warnings_of(built, judged, metrics, trial.config),
        )

    def _end(self) -> None:
        state = self._events.state
        if not any(trial.status == "finished" for trial in state.trials.values()):
            first = next(iter(self._errors.values()), {"reason": "no trial could be measured", "hint": ""})
            self._append("failed", reason="; ".join(filter(None, (first["reason"], first["hint"]))))
            return
        if self._search.is_adaptive:
            proposals = [trial.config for trial in self._plan.trials.values()]
            stage_cache.keep_proposals(self._store, self._search_key(), proposals)
        seconds, cpu = time.time() - self._begun, _cpu_seconds() - self._cpu_begun
        cores = psutil.cpu_count(logical=False) or 1
        usage = {"seconds": seconds, "cpu_seconds": cpu, "cores": cores, "busy": cpu / (cores * seconds)}
        if self._cost:
            usage["cost"] = self._cost
        self._append("finished", recommendation=self._recommendation(state), usage=usage)

    def _proposals_of_before(self) -> list[TrialConfig] | None:
        """Return the proposals of an earlier study with the same recipe, model, data and metric, or None.

        Their results are cached. Proposals depend on what was known at the time, so that a new search would try other
        trials.
        """
        return stage_cache.find_proposals(self._store, self._search_key())

    def _search_key(self) -> str:
        record = self._record
        data = {name: reference["digest"] for name, reference in record.data.items()}
        question = [record.recipe, record.model["digest"], data, record.metric["digest"]]
        return hashlib.sha256(json.dumps(["search", *question], sort_keys=True).encode()).hexdigest()

    def _recommendation(self, state: StudyState) -> str:
        return recommendation(best_trial(state), state.goal, state.metric)

    def _counts(self, keys: Iterable[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for key in keys:
            kind = self._plan.stages[key].kind
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    def _is_out_of_time(self) -> bool:
        minutes = self._planner.recipe.budget.minutes
        return minutes is not None and time.time() - self._begun > minutes * 60

    def _stop(self) -> None:
        if self._schedule is not None:
            self._schedule.stop()

    def _summarize(self) -> None:
        self._events.write_summary(self._record)

    def _append(self, type_: str, **values: Any) -> None:
        self._events.append(type_, **values)
        named = {name: values[name] for name in ("trial", "stage") if isinstance(values.get(name), str)}
        details = [str(values[name]) for name in ("label", "message", "reason") if values.get(name)]
        log.log(_LEVELS.get(type_, logging.INFO), ": ".join([type_, *details]), extra=named)


def _progress(judged: StageResult) -> dict[str, int]:
    """Return how many samples there are, while fewer were judged."""
    total = judged.measurements.get("of_samples")
    return {} if total is None else {"of_samples": int(total)}


def _size(built: StageResult) -> int:
    """Return the size of an artifact in bytes."""
    return int(built.measurements["size_bytes"])


def _standard_error(judged: StageResult) -> float:
    """Return the standard error of a drop, from its 95 % interval."""
    return float(judged.measurements["drop_high"] - judged.measurements["drop_low"]) / _INTERVAL


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and all its children so far."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
