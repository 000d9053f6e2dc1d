"""Runs one study's plan on an executor and writes its events.

The driver is demand-driven: it looks for the results that trials end with, then for what those need, so that nothing
cached is computed again. It alone retries.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

import psutil

from ..compute.base import Executor, StageCall, WorkerDied
from ..config import EngineConfig
from ..frontier import best_trial
from ..state import StudyState, TrialState
from ..store import studies
from ..store.base import Store
from ..store.lease import RENEW_EVERY, Lease
from . import cache
from .failures import explain
from .plan import Plan, Stage, TrialPlan, make_plan
from .report import metrics_of, recommendation, warnings_of
from .worker import STARTED

_TICK = 0.1
_PROGRESS_EVERY = 0.5
_CANCEL_EVERY = 0.5
_ATTEMPTS = 2

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another engine drives the study now."""


@dataclass
class _Running:
    stage: Stage
    attempt: int
    progress: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    told: float = 0.0


class Driver:
    """Drives one study from the lease to its last event."""

    def __init__(
        self,
        store: Store,
        record: Mapping[str, Any],
        lease: Lease,
        executor: Executor,
        config: EngineConfig,
        engine: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._store, self._record, self._lease = store, record, lease
        self._executor, self._config, self._engine = executor, config, engine
        self._is_stopping = is_stopping
        self._events = studies.EventWriter(store, record["id"])
        self._results: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, dict[str, str]] = {}
        self._wanted: set[str] = set()
        self._running: dict[Future[dict[str, Any]], _Running] = {}
        self._open: dict[str, TrialPlan] = {}
        self._looked_for_cancel = 0.0
        self._is_over = False
        self._begun = time.time()
        self._cpu_begun = _cpu_seconds()

    def run(self) -> None:
        """Drive the study. Returns when it has ended, or when the lease is lost or given back."""
        try:
            self._drive()
        except (LeaseLost, studies.LogTaken):
            log.warning("study %s is driven by another engine now", self._record["id"])
            self._stop_stages()
            return
        except Exception as error:
            log.exception("study %s failed", self._record["id"])
            self._stop_stages()
            self._append("failed", reason=explain(error)["reason"])
        self._summarize()
        self._lease.release()

    def _drive(self) -> None:
        plan = make_plan(self._record)
        self._open = {trial.name: trial for trial in plan.trials}
        self._wanted = self._missing(plan, [plan.preview, *(key for t in plan.trials for key in t.targets)])
        self._announce(plan)
        self._preview(plan)
        self._settle_trials(plan)
        self._summarize()
        self._submit_ready(plan)
        while self._running:
            self._keep_lease()
            if self._is_stopping():
                self._stop_stages()
                return
            if (reason := self._reason_to_stop()) is not None:
                self._stop_stages()
                self._append("cancelled", reason=reason)
                return
            done, _ = wait(self._running, timeout=_TICK, return_when=FIRST_COMPLETED)
            self._tell_progress()
            for future in done:
                self._settle(plan, self._running.pop(future), future)
            if done:
                self._submit_ready(plan)
                self._settle_trials(plan)
            if self._is_out_of_time() and not self._is_over:
                self._finish_early(plan)
        self._end(plan)

    def _missing(self, plan: Plan, targets: list[str]) -> set[str]:
        """Stages to run for these targets; results that are cached are kept at hand."""
        missing: set[str] = set()
        frontier = list(targets)
        while frontier:
            key = frontier.pop()
            if key in self._results or key in missing:
                continue
            found = cache.find(self._store, key)
            if found is not None:
                self._results[key] = found
            else:
                missing.add(key)
                frontier += plan.stages[key].inputs.values()
        return missing

    def _announce(self, plan: Plan) -> None:
        counts: dict[str, int] = {}
        for key in self._wanted:
            counts[plan.stages[key].kind] = counts.get(plan.stages[key].kind, 0) + 1
        self._append(
            "started",
            engine=self._engine,
            slots=self._executor.slots,
            trials=[{"name": trial.name, "config": dict(trial.config)} for trial in plan.trials],
            stages=counts,
            cached=len(plan.stages) - len(self._wanted),
            metric={key: self._record["metric"][key] for key in ("name", "higher_is_better", "percent")},
            goal=self._record["recipe"]["goal"],
            notes=list(self._record["notes"]),
        )

    def _submit_ready(self, plan: Plan) -> None:
        busy = {running.stage.key for running in self._running.values()}
        trainings = self._trainings_now(plan) - sum(running.stage.trains for running in self._running.values())
        for key in sorted(self._wanted - busy):
            stage = plan.stages[key]
            if not all(needed in self._results for needed in stage.inputs.values()):
                continue
            if stage.trains:
                trainings -= 1
                if trainings < 0:
                    continue
            self._submit(plan, stage, attempt=1)

    def _trainings_now(self, plan: Plan) -> float:
        """How many trainings may run: while cheap points are still to come, one slot stays free for them."""
        cheap = {
            trial.evaluate for trial in self._open.values() if not any(s.trains for s in plan.chain(trial.evaluate))
        }
        return self._executor.slots - 1 if cheap & self._wanted else float("inf")

    def _submit(self, plan: Plan, stage: Stage, attempt: int) -> None:
        running = _Running(stage, attempt)
        inputs = {role: self._results[key] for role, key in stage.inputs.items()}
        call = StageCall(
            job={
                "kind": stage.kind,
                "settings": dict(stage.settings),
                "inputs": inputs,
                "store": self._store.uri,
                "key": stage.key,
            },
            is_measurement=stage.is_measurement,
            is_exclusive=stage.is_exclusive,
            timeout=self._config.recover_timeout if stage.trains else self._config.stage_timeout,
            priority=self._priority(plan, stage),
        )
        self._running[self._executor.submit(call, running.progress.put)] = running

    def _priority(self, plan: Plan, stage: Stage) -> tuple[float, ...]:
        """Points soon: the preview, then what is close to a measured trial; training fills the rest."""
        builds_on = {item.kind for item in plan.chain(stage.key)}
        rank = {"preview": 0, "evaluate": 1, "quantize": 2, "export": 3, "prune": 4, "recover": 5, "latency": 6}
        return float("recover" in builds_on or "prune" in builds_on), float(rank[stage.kind]), self._begun

    def _settle(self, plan: Plan, running: _Running, future: Future[dict[str, Any]]) -> None:
        stage = running.stage
        self._drain(running, force=True)
        try:
            result = future.result()
        except WorkerDied as error:
            if running.attempt < _ATTEMPTS:
                self._append("stage_retried", stage=stage.key, label=stage.label, reason=str(error))
                self._submit(plan, stage, running.attempt + 1)
                return
            hint = "probably out of memory; use fewer slots, or a smaller max_samples"
            result = {"error": {"reason": f"{error}, {running.attempt} times", "hint": hint}}
        except (Exception, CancelledError) as error:
            result = {"error": explain(error)}
        if "error" in result:
            self._fail(plan, stage, result["error"])
            return
        cache.keep(self._store, stage.key, result)
        self._results[stage.key] = result
        self._wanted.discard(stage.key)
        self._append(
            "stage_finished",
            stage=stage.key,
            kind=stage.kind,
            label=stage.label,
            began=result["began"],
            seconds=result["seconds"],
        )
        if stage.key == plan.preview:
            self._preview(plan)

    def _fail(self, plan: Plan, stage: Stage, error: dict[str, str]) -> None:
        if error.get("traceback"):
            log.error("stage %s failed\n%s", stage.label, error["traceback"])
        reason = {"reason": error["reason"], "hint": error.get("hint", "")}
        self._append("stage_failed", stage=stage.key, kind=stage.kind, label=stage.label, **reason)
        self._errors[stage.key] = reason
        lost = {key for key in self._wanted if any(s.key == stage.key for s in plan.chain(key))}
        self._wanted -= lost
        for trial in list(self._open.values()):
            if lost & set(trial.targets):
                del self._open[trial.name]
                where = {} if stage.key in trial.targets else {"reason": f"{stage.label} failed: {reason['reason']}"}
                self._append("trial_failed", trial=trial.name, config=dict(trial.config), error={**reason, **where})
        # What only failed trials needed is not worth its time any more.
        self._wanted &= {
            s.key
            for key in [plan.preview, *(k for t in self._open.values() for k in t.targets)]
            for s in plan.chain(key)
        }

    def _preview(self, plan: Plan) -> None:
        if plan.preview in self._results and not self._events.state.preview:
            self._append("preview", metrics=self._results[plan.preview]["facts"])

    def _settle_trials(self, plan: Plan) -> None:
        for trial in list(self._open.values()):
            baseline = self._baseline_of(plan, trial)
            if any(key not in self._results for key in (trial.build, trial.evaluate, baseline.build)):
                continue
            is_timed = trial.latency in self._results
            known = self._events.state.trials[trial.name]
            if known.status == "finished" and self._is_current(trial, known):
                del self._open[trial.name]
                continue
            if known.status == "measured" and not is_timed:
                continue
            self._append_trial(plan, trial, is_timed)
            if is_timed:
                del self._open[trial.name]
                self._summarize()

    def _is_current(self, trial: TrialPlan, known: TrialState) -> bool:
        """Whether a trial told of earlier still names the file that is there: one built again may differ."""
        blob = self._results[trial.build]["blobs"]["artifact"]
        return known.artifact is not None and known.artifact["blob"] == blob

    def _append_trial(self, plan: Plan, trial: TrialPlan, is_timed: bool) -> None:
        built = self._results[trial.build]
        baseline = self._baseline_of(plan, trial)
        artifact = {
            "blob": built["blobs"]["artifact"],
            "size": built["facts"]["size_bytes"],
            "filename": f"{trial.name.replace(':', '-').replace('@', '-')}{built['suffix']}",
            "runtime": trial.config["runtime"],
            "kept": built["kept"][:50],
            "about": {key: built["about"][key] for key in ("inputs", "input_names", "outputs")},
        }
        metrics = metrics_of(
            built,
            self._results[trial.evaluate],
            self._results.get(trial.latency),
            self._results[baseline.build],
            seconds=self._seconds(plan, trial),
        )
        self._append(
            "trial_finished" if is_timed else "trial_measured",
            trial=trial.name,
            config=dict(trial.config),
            metrics=metrics,
            artifact=artifact,
            warnings=warnings_of(built, metrics, trial.config),
        )

    def _baseline_of(self, plan: Plan, trial: TrialPlan) -> TrialPlan:
        wanted = {"prune": None, "quantize": "none", "runtime": trial.config["runtime"]}
        return next(other for other in plan.trials if other.config == wanted)

    def _seconds(self, plan: Plan, trial: TrialPlan) -> float:
        chain = {stage.key for key in (trial.build, trial.evaluate, trial.latency) for stage in plan.chain(key)}
        found = [self._results.get(key) or cache.find(self._store, key) for key in chain]
        return float(sum(result["seconds"] for result in found if result))

    def _end(self, plan: Plan) -> None:
        state = self._events.state
        if not any(trial.status == "finished" for trial in state.trials.values()):
            first = next(iter(self._errors.values()), {"reason": "no trial could be measured", "hint": ""})
            self._append("failed", reason="; ".join(filter(None, (first["reason"], first["hint"]))))
            return
        seconds, cpu = time.time() - self._begun, _cpu_seconds() - self._cpu_begun
        cores = psutil.cpu_count(logical=False) or 1
        self._append(
            "finished",
            recommendation=self._recommendation(state),
            usage={"seconds": seconds, "cpu_seconds": cpu, "cores": cores, "busy": cpu / (cores * seconds)},
        )

    def _recommendation(self, state: StudyState) -> str:
        goal = self._record["recipe"]["goal"]
        done = [trial for trial in state.trials.values() if trial.status == "finished"]
        best = best_trial(done, goal["max_drop"], goal["minimize"])
        return recommendation(best, goal, state.metric)

    def _tell_progress(self) -> None:
        for running in self._running.values():
            self._drain(running)

    def _drain(self, running: _Running, force: bool = False) -> None:
        """Pass on the newest line, at most two a second: the log shows progress, not everything."""
        if not force and time.monotonic() - running.told < _PROGRESS_EVERY:
            return
        about = {"stage": running.stage.key, "label": running.stage.label}
        last = None
        while not running.progress.empty():
            last = running.progress.get()
            if last == STARTED:
                self._append("stage_started", kind=running.stage.kind, **about)
                last = None
        if last is not None:
            running.told = time.monotonic()
            self._append("progress", message=last, **about)

    def _keep_lease(self) -> None:
        if time.time() - self._lease.renewed >= RENEW_EVERY and not self._lease.renew():
            raise LeaseLost

    def _reason_to_stop(self) -> str | None:
        now = time.monotonic()
        if now - self._looked_for_cancel < _CANCEL_EVERY:
            return None
        self._looked_for_cancel = now
        return "cancelled on request" if studies.is_cancelled(self._store, self._record["id"]) else None

    def _is_out_of_time(self) -> bool:
        minutes = self._record["recipe"]["budget"]["minutes"]
        return minutes is not None and time.time() - self._begun > minutes * 60

    def _finish_early(self, plan: Plan) -> None:
        """The time is over: start nothing new, but time what is measured, so that it counts."""
        self._is_over = True
        self._wanted = {
            key
            for key in self._wanted
            if plan.stages[key].is_exclusive and all(n in self._results for n in plan.stages[key].inputs.values())
        }
        for future, running in list(self._running.items()):
            if running.stage.key not in self._wanted:
                self._executor.stop(future)
                del self._running[future]

    def _stop_stages(self) -> None:
        for future in list(self._running):
            self._executor.stop(future)
        self._running.clear()

    def _summarize(self) -> None:
        self._events.write_summary(dict(self._record))

    def _append(self, type_: str, **values: Any) -> None:
        self._events.append(type_, **values)


def _cpu_seconds() -> float:
    """CPU seconds of this process and all its children so far."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
