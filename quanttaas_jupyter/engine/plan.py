"""Recipe -> trials -> shared stages.

A stage's key is a hash of what it depends on: the keys of the stages it builds on, the digests of model, data and
metric, its settings, the versions of the libraries it uses and the source of its technique. So two trials, studies or
kernels that need the same work share it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import psutil

from ..errors import RecipeError
from ..recipe import Prune, Recipe
from .prune import PRUNERS
from .quantize import QUANTIZERS
from .recover import RECOVERIES
from .registry import Entry, source_digest, version_of
from .runtimes import RUNTIMES

_STAGES = f"{__package__}.stages"
_MEASURE = f"{__package__}.measure"


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    Attributes:
        key: Hash of everything its result depends on.
        kind: ``preview``, ``prune``, ``recover``, ``export``, ``quantize``, ``evaluate`` or ``latency``.
        label: What the log calls it.
        settings: What ``stages.run`` needs.
        inputs: Keys of the stages it builds on, by role.
        is_measurement: It runs in another process than those that build.
        is_exclusive: Nothing else may run on the device.
        trains: It may take as long as training.
    """

    key: str
    kind: str
    label: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    is_measurement: bool = False
    is_exclusive: bool = False
    trains: bool = False


@dataclass(frozen=True)
class TrialPlan:
    """A trial and the stages that make it: keys of what builds, evaluates and times its artifact."""

    name: str
    config: Mapping[str, Any]
    build: str
    evaluate: str
    latency: str

    @property
    def targets(self) -> tuple[str, str, str]:
        """The stages that the trial ends with."""
        return self.build, self.evaluate, self.latency


@dataclass(frozen=True)
class Plan:
    """All trials, and every stage any of them needs, each once."""

    trials: tuple[TrialPlan, ...]
    stages: Mapping[str, Stage]
    preview: str

    def chain(self, key: str) -> Iterator[Stage]:
        """A stage and all it builds on, each once."""
        seen: set[str] = set()
        frontier = [key]
        while frontier:
            stage = self.stages[frontier.pop()]
            if stage.key not in seen:
                seen.add(stage.key)
                frontier += stage.inputs.values()
                yield stage


def trial_configs(recipe: Recipe) -> list[tuple[str, dict[str, Any], Prune | None]]:
    """Names and configurations of a recipe's trials, baselines first, without repetition.

    Raises:
        RecipeError: A technique is known but not built yet.
    """
    refuse_unbuilt(recipe)
    several = len(recipe.runtime) > 1
    found: dict[str, tuple[str, dict[str, Any], Prune | None]] = {}
    unchanged = Prune(amount=0.0)
    for runtime in recipe.runtime:
        for prune, quantization in [(unchanged, "none"), *((p, q) for p in recipe.prune for q in recipe.quantize)]:
            parts = [part for part in (prune.name, "" if quantization == "none" else quantization) if part]
            name = "-".join(parts) or "baseline"
            name = f"{name}@{runtime}" if several else name
            amount = prune if prune.amount else None
            config = {
                "prune": amount.model_dump() if amount else None,
                "quantize": quantization,
                "runtime": runtime,
            }
            found.setdefault(name, (name, config, amount))
    ordered = sorted(found.values(), key=lambda item: not _is_baseline(item[1]))
    baselines = sum(_is_baseline(config) for _, config, _ in ordered)
    return ordered[: max(recipe.budget.trials, baselines)] if recipe.budget.trials else ordered


def refuse_unbuilt(recipe: Recipe) -> None:
    """Raise RecipeError for values that are known but that no technique implements yet."""
    if recipe.search == "auto":
        raise RecipeError("search: auto is not built yet; use search: grid")
    for runtime in recipe.runtime:
        if RUNTIMES.find(runtime) is None:
            raise RecipeError(f"runtime {runtime!r} is not built yet; built are {', '.join(RUNTIMES.keys())}")
        for quantization in recipe.quantize:
            if quantization != "none" and QUANTIZERS.find((quantization, runtime)) is None:
                here = [name for name, place in sorted(QUANTIZERS.keys()) if place == runtime]
                built = ", ".join(["none", *here])
                raise RecipeError(f"quantization {quantization!r} is not built yet for {runtime}; built are {built}")
    for prune in recipe.prune:
        if prune.amount and PRUNERS.find(prune.method) is None:
            raise RecipeError(f"prune method {prune.method!r} is not built yet; built are {', '.join(PRUNERS.keys())}")
    if recipe.recover and RECOVERIES.find(recipe.recover.method) is None:
        built = ", ".join(sorted(RECOVERIES.keys()))
        raise RecipeError(f"recover: {recipe.recover.method} is not built yet; built are {built}")


def make_plan(record: Mapping[str, Any]) -> Plan:
    """Plan a study from its ``study.json``. Raises RecipeError."""
    planner = _Planner(record, Recipe.parse(record["recipe"]))
    trials = tuple(planner.trial(*item) for item in trial_configs(planner.recipe))
    preview = planner.preview()
    return Plan(trials, planner.stages, preview)


@dataclass
class _Planner:
    record: Mapping[str, Any]
    recipe: Recipe
    stages: dict[str, Stage] = field(default_factory=dict)

    def trial(self, name: str, config: dict[str, Any], prune: Prune | None) -> TrialPlan:
        runtime = config["runtime"]
        artifact = self._artifact(prune, config["quantize"], runtime)
        if _is_baseline(config):
            return TrialPlan(
                name,
                config,
                artifact,
                self._evaluate(name, artifact, None, runtime),
                self._latency(name, artifact, None, runtime),
            )
        baseline = self._artifact(None, "none", runtime)
        judged = self._evaluate("baseline", baseline, None, runtime)
        return TrialPlan(
            name,
            config,
            artifact,
            self._evaluate(name, artifact, judged, runtime),
            self._latency(name, artifact, baseline, runtime),
        )

    def preview(self) -> str:
        settings = {**self._model(), **self._data("eval"), **self._metric()}
        return self._add("preview", "measuring the model in eager PyTorch", settings, {}, [], is_measurement=True)

    def _artifact(self, prune: Prune | None, quantization: str, runtime: str) -> str:
        trained = self._trained(prune) if prune else None
        source = self._export(trained, prune, runtime)
        if quantization == "none":
            return source
        name = "-".join(part for part in (prune.name if prune else "", quantization) if part)
        settings = {
            **self._data("calibration"),
            "quantization": quantization,
            "runtime": runtime,
            "ignore": list(self.recipe.ignore),
        }
        entries = [QUANTIZERS.find((quantization, runtime)), RUNTIMES.find(runtime)]
        return self._add("quantize", f"{name}: quantizing", settings, {"source": source}, entries)

    def _trained(self, prune: Prune) -> str:
        settings = {
            **self._model(),
            **self._data("calibration"),
            "method": prune.method,
            "amount": prune.amount,
            "ignore": list(self.recipe.ignore),
        }
        pruned = self._add("prune", f"{prune.name}: pruning", settings, {}, [PRUNERS.find(prune.method)])
        recover = self.recipe.recover
        method = recover.method if recover else "distill"
        if method == "none":
            return pruned
        taught_on = "train" if "train" in self.record["data"] else "calibration"
        settings = {
            **self._model(),
            **self._data(taught_on),
            "recover_on": taught_on,
            "method": method,
            "epochs": recover.epochs if recover else None,
            "lr": recover.lr if recover else None,
            "seed": self.recipe.seed,
            "is_classifier": self.record["is_classifier"],
            "keep_zeros": prune.method != "structured",
        }
        entries = [RECOVERIES.find(method), RECOVERIES.find("batchnorm")]
        return self._add("recover", f"{prune.name}: recovering", settings, {"pruned": pruned}, entries, trains=True)

    def _export(self, trained: str | None, prune: Prune | None, runtime: str) -> str:
        settings = {**self._model(), **self._data("calibration"), "runtime": runtime}
        label = f"{prune.name if prune else 'baseline'}: building for {runtime}"
        inputs = {"trained": trained} if trained else {}
        return self._add("export", label, settings, inputs, [RUNTIMES.find(runtime)])

    def _evaluate(self, name: str, artifact: str, baseline: str | None, runtime: str) -> str:
        settings = {
            **self._data("eval"),
            **self._metric(),
            "runtime": runtime,
        }
        inputs = {"artifact": artifact, **({"baseline": baseline} if baseline else {})}
        return self._add(
            "evaluate",
            f"{name}: measuring",
            settings,
            inputs,
            [RUNTIMES.find(runtime)],
            is_measurement=True,
            machine=platform.machine(),
        )

    def _latency(self, name: str, artifact: str, baseline: str | None, runtime: str) -> str:
        threads = self.recipe.latency.threads or physical_cores()
        settings = {
            **self._data("eval"),
            "runtime": runtime,
            "batch": self.recipe.latency.batch,
            "threads": threads,
        }
        inputs = {"artifact": artifact, **({"baseline": baseline} if baseline else {})}
        return self._add(
            "latency",
            f"{name}: timing",
            settings,
            inputs,
            [RUNTIMES.find(runtime)],
            is_measurement=True,
            is_exclusive=True,
            device=cpu_name(),
            cores=physical_cores(),
        )

    def _model(self) -> dict[str, Any]:
        return {"model": self.record["model"]}

    def _data(self, name: str) -> dict[str, Any]:
        return {"data": {name: self.record["data"][name]}}

    def _metric(self) -> dict[str, Any]:
        return {"metric": self.record["metric"], "seed": self.recipe.seed}

    def _add(
        self,
        kind: str,
        label: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        entries: list[Entry[Any] | None],
        is_measurement: bool = False,
        is_exclusive: bool = False,
        trains: bool = False,
        **device: Any,
    ) -> str:
        material = {
            "kind": kind,
            "settings": {key: _digest_of(key, value) for key, value in settings.items()},
            "inputs": inputs,
            "sources": [source_digest(_STAGES), *([source_digest(_MEASURE)] if is_measurement else [])],
            "techniques": [entry.fingerprint() for entry in entries if entry],
            "torch": version_of("torch"),
            "device": device,
        }
        key = hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()
        stage = Stage(key, kind, label, settings, inputs, is_measurement, is_exclusive, trains)
        self.stages.setdefault(key, stage)
        return key


def physical_cores() -> int:
    """Physical cores of this machine, at least one."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor's name, as precisely as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()


def _digest_of(key: str, value: Any) -> Any:
    """References become digests of content: where bytes happen to lie must not change a key."""
    if key == "model":
        return value["digest"]
    if key == "data":
        return {name: reference["digest"] for name, reference in value.items()}
    if key == "metric":
        return [value["kind"], value["name"], value["digest"], value["higher_is_better"]]
    return value


def _is_baseline(config: Mapping[str, Any]) -> bool:
    return config["prune"] is None and config["quantize"] == "none"
