"""Schedule of a study's stages: wanted, running and done. It is demand-driven, so that cached stages are not run again.

A schedule starts from the stages that trials end with, and adds those that they need. Only the schedule retries stages.
"""

from __future__ import annotations

import json
import logging
import queue
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

from ..compute.executors.base import Executor, NodeLost, StageCall, WorkerDied
from ..core.config import EngineConfig
from ..core.failures import StageError, explain
from ..core.records.stage import INTERIM, StageResult
from ..planning.needs import at_least, needed
from ..planning.plan import Plan, Stage
from ..store.base import Store
from ..study_store import stage_cache
from .worker import STARTED

_PROGRESS_EVERY = 0.5
"""Seconds between two progress events of a stage; chosen, not tuned. Smaller makes the event log longer."""
_RANK = {
    "preview": 0,
    "evaluate": 1,
    "quantize": 2,
    "export": 3,
    "prune": 4,
    "sensitivity": 5,
    "screen": 6,
    "recover": 7,
    "latency": 8,
}

_DATA_RUNTIMES = ("onnxruntime", "openvino")
"""Runtimes whose files are data to them; those of others may run code when they are loaded."""

log = logging.getLogger(__name__)

Append = Callable[..., None]


@dataclass
class _Running:
    stage: Stage
    attempt: int
    progress: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    reported: float = 0.0


@dataclass(frozen=True)
class Ended:
    """Stage that ended with a result in ``Schedule.results``, or with an ``error`` (reason and hint)."""

    stage: Stage
    error: dict[str, str] | None = None


class Schedule:
    """Stages of one study on an executor."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        executor: Executor,
        config: EngineConfig,
        append: Append,
        model_bytes: int = 0,
    ) -> None:
        """Start without wanted stages; ``append`` writes events, ``model_bytes`` is the size of the study's model."""
        self._plan, self._store, self._executor, self._config = plan, store, executor, config
        self._append, self._model_bytes = append, model_bytes
        self._running: dict[Future[dict[str, Any]], _Running] = {}
        self._begun = time.time()
        self.results: dict[str, StageResult] = {}
        self.interim: dict[str, StageResult] = {}
        self.wanted: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a stage is submitted."""
        return bool(self._running)

    def want(self, targets: Iterable[str]) -> set[str]:
        """Request stages, take cached results at once, and return the stages that have to run."""
        missing: set[str] = set()
        frontier = list(targets)
        while frontier:
            unknown = [key for key in frontier if key not in self.results and key not in missing]
            cached = stage_cache.find_all(self._store, unknown, {key for key in unknown if self._is_code(key)})
            self.results |= {key: result for key, result in cached.items() if result is not None}
            absent = [key for key, result in cached.items() if result is None]
            missing |= set(absent)
            frontier = [needed for key in absent for needed in self._plan.stages[key].inputs.values()]
        fresh = missing - self.wanted
        self.wanted |= missing
        return fresh

    def keep_only(self, targets: Iterable[str]) -> None:
        """Forget wanted stages that none of the targets needs; running stages go on."""
        needed = {stage.key for key in targets for stage in self._plan.chain(key)}
        self.wanted &= needed

    def submit_ready(self) -> bool:
        """Submit the wanted stages with known inputs, and return whether some were found in the cache."""
        before = len(self.results)
        busy = {running.stage.key for running in self._running.values()}
        trainings = self._trainings_now() - sum(running.stage.trains for running in self._running.values())
        waiting = [self._plan.stages[key] for key in self.wanted - busy]
        ready = [stage for stage in waiting if all(needed in self.results for needed in stage.inputs.values())]
        for stage in sorted(ready, key=lambda stage: (self._priority(stage), stage.key)):
            if stage.trains:
                trainings -= 1
                if trainings < 0:
                    continue
            if (cached := stage_cache.find(self._store, stage.key, self._is_code(stage.key))) is not None:
                # Another study ran the same stage in the meantime.
                self._keep(stage, cached)
            else:
                self._submit(stage, attempt=1)
        return len(self.results) > before

    def collect(self, timeout: float) -> list[Ended]:
        """Wait for stages to end, and return them; stages whose worker died are submitted again."""
        done, _ = wait(self._running, timeout=timeout, return_when=FIRST_COMPLETED)
        self._report_progress()
        return [ended for future in done if (ended := self._settle(self._running.pop(future), future))]

    def stop(self) -> None:
        """Stop all running stages."""
        for future in list(self._running):
            self._executor.stop(future)
        self._running.clear()

    def finish_early(self) -> None:
        """Stop running stages and start no new ones, except latency stages of evaluated trials, so that these count."""
        self.wanted = {
            key
            for key in self.wanted
            if self._plan.stages[key].is_exclusive
            and all(needed in self.results for needed in self._plan.stages[key].inputs.values())
        }
        for future, running in list(self._running.items()):
            if running.stage.key not in self.wanted:
                self._executor.stop(future)
                del self._running[future]

    def seconds(self, targets: Iterable[str]) -> float:
        """Return the seconds spent on these stages and all that they build on, each once, also in earlier studies."""
        chain = {stage.key for key in targets for stage in self._plan.chain(key)}
        known = {key: self.results[key] for key in chain & self.results.keys()}
        cached = stage_cache.find_all(self._store, chain - known.keys())
        return float(sum(result.seconds for result in (*known.values(), *cached.values()) if result))

    def _is_code(self, key: str) -> bool:
        """Return whether loading the files of a stage may run code."""
        return self._plan.stages[key].settings.get("runtime", _DATA_RUNTIMES[0]) not in _DATA_RUNTIMES

    def _trainings_now(self) -> float:
        """Return how many trainings may run: one slot stays free while trials without training are still to come."""
        stages = self._plan.stages
        cheap = any(
            stages[key].kind == "evaluate" and not any(stage.trains for stage in self._plan.chain(key))
            for key in self.wanted
        )
        return self._executor.slots - 1 if cheap else float("inf")

    def _priority(self, stage: Stage) -> tuple[float, ...]:
        """Return the priority: the preview first, then stages close to an evaluated trial, then trainings."""
        builds_on = {item.kind for item in self._plan.chain(stage.key)}
        is_costly = bool(builds_on & {"recover", "prune", "screen"})
        return float(is_costly), float(_RANK[stage.kind]), self._begun

    def _submit(self, stage: Stage, attempt: int) -> None:
        running = _Running(stage, attempt)
        if (refusal := self._why_too_large(stage)) is not None:
            refused: Future[dict[str, Any]] = Future()
            refused.set_exception(refusal)
            self._running[refused] = running
            return
        call = StageCall(
            job={
                "kind": stage.kind,
                "settings": dict(stage.settings),
                "inputs": {role: self.results[key].stored() for role, key in stage.inputs.items()},
                "store": self._store.uri,
                "key": stage.key,
            },
            is_measurement=stage.is_measurement,
            is_exclusive=stage.is_exclusive,
            timeout=self._config.recover_timeout if stage.trains else self._config.stage_timeout,
            priority=self._priority(stage),
            wants_gpu=stage.trains or stage.wants_gpu,
            machine=stage.machine,
            memory=needed(stage.kind, self._model_bytes, self._peaks()),
        )
        self._running[self._executor.submit(call, running.progress.put)] = running

    def _why_too_large(self, stage: Stage) -> StageError | None:
        """Return the error of a stage that cannot fit where it would run."""
        there, least = self._executor.memory(), at_least(stage.kind, self._model_bytes)
        if there is None or least <= there:
            return None
        return StageError(
            f"it needs at least {least / 1e9:.1f} GB of memory, and stages may take {there / 1e9:.1f} GB here",
            "free some memory, use a machine or a cluster with more, or a smaller model",
        )

    def _peaks(self) -> dict[str, int]:
        """Return the largest memory of the stages of each kind that have ended."""
        peaks: dict[str, int] = {}
        for key, result in self.results.items():
            if result.peak_bytes:
                kind = self._plan.stages[key].kind
                peaks[kind] = max(peaks.get(kind, 0), result.peak_bytes)
        return peaks

    def _settle(self, running: _Running, future: Future[dict[str, Any]]) -> Ended | None:
        stage = running.stage
        self._drain(running, force=True)
        try:
            answer = future.result()
        except WorkerDied as error:
            if running.attempt < error.attempts:
                self._append("stage_retried", stage=stage.key, label=stage.label, reason=str(error))
                self._submit(stage, running.attempt + 1)
                return None
            answer = {"error": {"reason": f"{error}, {running.attempt} times", "hint": error.hint}}
        except (Exception, CancelledError) as error:
            answer = {"error": explain(error)}
        failure = answer.get("error")
        if failure is None:
            self._keep(stage, StageResult.of(answer))
            return Ended(stage)
        if answer.get("is_passing") and running.attempt < NodeLost.attempts:
            self._append("stage_retried", stage=stage.key, label=stage.label, reason=failure["reason"])
            self._submit(stage, running.attempt + 1)
            return None
        return Ended(stage, self._fail(stage, failure))

    def _keep(self, stage: Stage, result: StageResult) -> None:
        self.results[stage.key] = result
        self.wanted.discard(stage.key)
        names = {"stage": stage.key, "kind": stage.kind, "label": stage.label}
        self._append("stage_finished", **names, began=result.began, seconds=result.seconds)

    def _fail(self, stage: Stage, error: dict[str, str]) -> dict[str, str]:
        if error.get("traceback"):
            log.error("stage %s failed\n%s", stage.label, error["traceback"])
        reason = {"reason": error["reason"], "hint": error.get("hint", "")}
        self._append("stage_failed", stage=stage.key, kind=stage.kind, label=stage.label, **reason)
        return reason

    def _report_progress(self) -> None:
        for running in self._running.values():
            self._drain(running)

    def _drain(self, running: _Running, force: bool = False) -> None:
        """Report the newest progress line, at most twice a second."""
        if not force and time.monotonic() - running.reported < _PROGRESS_EVERY:
            return
        names = {"stage": running.stage.key, "label": running.stage.label}
        last = None
        while not running.progress.empty():
            line = running.progress.get()
            if line == STARTED:
                self._append("stage_started", kind=running.stage.kind, **names)
            elif line.startswith(INTERIM):
                self.interim[running.stage.key] = StageResult(measurements=json.loads(line[1:]))
            else:
                last = line
        if last is not None:
            running.reported = time.monotonic()
            self._append("progress", message=last, **names)
