"""Planner, which turns trials into shared stages.

A stage's key is a hash of everything it depends on: the keys of the stages it builds on, the digests of model, data and
metric, its settings, the versions of the libraries it uses and the source of its technique. So trials, studies and
kernels that need the same work share it. A plan grows while a search proposes trials.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import stages
from ..core import catalogue
from ..core.device import Device, this_device
from ..core.errors import RecipeError
from ..core.recipe import CALLABLE, Recipe, Recover
from ..core.records.study import StudyRecord
from ..core.records.trial import Pruning, TrialConfig
from ..core.understanding import Judging
from ..techniques.availability import refuse_unavailable
from ..techniques.prune import PRUNERS
from ..techniques.prune import RANKERS as PRUNE_RANKERS
from ..techniques.quantize import QUANTIZERS
from ..techniques.quantize import RANKERS as QUANTIZE_RANKERS
from ..techniques.recover import RECOVERIES
from ..techniques.registry import Entry
from ..techniques.runtimes import RUNTIMES

_SCREENED_FROM = 0.3
"""Amount from which a pruning is screened before its full recovery; chosen, not tuned. Mild prunings rarely fail."""


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    Attributes:
        key: Hash of everything its result depends on.
        kind: ``preview``, ``sensitivity``, ``prune``, ``screen``, ``recover``, ``export``, ``quantize``, ``evaluate``
            or ``latency``.
        label: Name in the log.
        settings: Settings for ``stages.run``.
        inputs: Keys of the stages it builds on, by role.
        is_measurement: Whether it runs in another process than stages that build.
        is_exclusive: Whether nothing else may run on the device at the same time.
        trains: Whether it may take as long as training.
        wants_gpu: Whether a GPU speeds it up, where there is one.
        machine: Kind of processor that its result depends on; empty if any will do.
    """

    key: str
    kind: str
    label: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    is_measurement: bool = False
    is_exclusive: bool = False
    trains: bool = False
    wants_gpu: bool = False
    machine: str = ""


@dataclass(frozen=True)
class TrialPlan:
    """A trial with its stages.

    Attributes:
        name: Name that describes the configuration.
        config: What it does to the model.
        build: Key of the stage that writes its artifact.
        evaluate: Key of the stage that evaluates it for the user.
        latency: Key of the stage that measures its latency.
        guide: Key of the stage that evaluates it for the search; empty without a search.
        screen: Key of the stage that decides whether it is worth its full recovery; empty if it is not screened.
    """

    name: str
    config: TrialConfig
    build: str
    evaluate: str
    latency: str
    guide: str = ""
    screen: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """Keys of the stages that the trial ends with."""
        return tuple(key for key in (self.build, self.evaluate, self.guide, self.latency) if key)

    @property
    def is_baseline(self) -> bool:
        """Whether this trial is the baseline: the unchanged model in its runtime."""
        return self.config.is_baseline


@dataclass(frozen=True)
class Plan:
    """Trials so far, all stages that they need, each once, and the keys of stages that belong to no single trial.

    ``rankings`` holds the keys of sensitivity stages, under ``prune`` and ``quantize@RUNTIME``.
    """

    trials: dict[str, TrialPlan] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    rankings: dict[str, str] = field(default_factory=dict)
    preview: str = ""

    def chain(self, key: str) -> Iterator[Stage]:
        """Yield a stage and all stages that it builds on, each once."""
        seen: set[str] = set()
        frontier = [key]
        while frontier:
            stage = self.stages[frontier.pop()]
            if stage.key not in seen:
                seen.add(stage.key)
                frontier += stage.inputs.values()
                yield stage

    def baseline_of(self, trial: TrialPlan) -> TrialPlan:
        """Return the baseline in the trial's runtime."""
        runtime = trial.config.runtime
        return next(t for t in self.trials.values() if t.is_baseline and t.config.runtime == runtime)


def name_of(config: TrialConfig, several_runtimes: bool, taken: Iterable[str] = ()) -> str:
    """Return a trial's name: its configuration, ``@runtime`` if there are several, and a number if it is taken."""
    prune, quantization = config.prune, "" if config.quantize == "none" else config.quantize
    trained = "qat" if config.recover == "qat" else ""
    base = "-".join(filter(None, (prune.name if prune else "", quantization, trained))) or "baseline"
    suffix = f"@{config.runtime}" if several_runtimes else ""
    used = set(taken)
    number = 1
    while (name := f"{base}{f'-{number}' if number > 1 else ''}{suffix}") in used:
        number += 1
    return name


class Planner:
    """Turns configurations into stages; ``plan`` holds the result so far."""

    def __init__(self, record: StudyRecord, device: Device | None = None) -> None:
        """Plan for a study, and for measurements on a device, by default this machine's.

        Raises:
            RecipeError: No technique implements a value of the recipe.
        """
        self.recipe = Recipe.parse(record.recipe)
        refuse_unavailable(self.recipe)
        self._record = record
        self._device = device or this_device()
        self._stages: dict[str, Stage] = {}
        self.plan = Plan(stages=self._stages, preview=self._preview())

    def add(self, config: TrialConfig, name: str = "") -> TrialPlan:
        """Plan a trial and return its plan; its baseline must be planned already.

        Raises:
            RecipeError: Layers are to stay in higher precision, which the quantization cannot do.
        """
        name = name or name_of(config, len(self.recipe.runtime) > 1, self.plan.trials)
        runtime, prune = config.runtime, config.prune
        artifact = self._artifact(config)
        baseline = None if config.is_baseline else self._artifact(TrialConfig.baseline(runtime))
        trial = TrialPlan(
            name=name,
            config=config,
            build=artifact,
            evaluate=self._evaluate(name, artifact, baseline, runtime, "eval"),
            latency=self._latency(name, artifact, baseline, runtime),
            guide=self._evaluate(name, artifact, baseline, runtime, "guide") if self._is_guided else "",
            screen=self._screened(prune) if prune and self._is_screened(prune) else "",
        )
        self.plan.trials[name] = trial
        return trial

    def rank_layers(self) -> None:
        """Plan the sensitivity stages that a search uses."""
        if any(prune.amount for prune in self.recipe.prune):
            self._prune_ranking()
        for runtime in self.recipe.runtime:
            if QUANTIZE_RANKERS.find(runtime) is not None:
                self._quantize_ranking(runtime)

    @property
    def _is_guided(self) -> bool:
        return "guide" in self._record.data

    def _is_screened(self, prune: Pruning) -> bool:
        is_harsh = prune.method == "structured" and prune.amount >= _SCREENED_FROM
        return self._is_guided and is_harsh and self._recover.method == "distill"

    @property
    def _recover(self) -> Recover:
        return self.recipe.recover or Recover(method="distill")

    def _preview(self) -> str:
        settings = {**self._model(), **self._data("eval"), **self._metric()}
        return self._add("preview", "measuring the model in eager PyTorch", settings, {}, [], is_measurement=True)

    def _artifact(self, config: TrialConfig) -> str:
        prune, quantization, runtime = config.prune, config.quantize, config.runtime
        label = "-".join(filter(None, (prune.name if prune else "", quantization.replace("none", "")))) or "baseline"
        trained = self._trained(prune, config.effort) if prune else None
        if (config.recover or self._recover.method) == "qat" and (rounding := catalogue.rounding_of(quantization)):
            trained = self._quantization_aware(trained, label, config, rounding)
        source = self._export(trained, prune.name if prune else "baseline", runtime)
        if quantization == "none":
            return source
        entry = QUANTIZERS.find((quantization, runtime))
        needs = entry.needs if entry else ()
        if config.keep and "keep" not in needs:
            raise RecipeError(f"{quantization} on {runtime} keeps no layers in higher precision: leave out keep")
        # Techniques that know the goal decide by themselves how many layers to keep.
        keep = 0 if config.keep is None and "goal" not in needs else config.keep
        settings = {
            **self._data("calibration"),
            "quantization": quantization,
            "runtime": runtime,
            "ignore": list(self.recipe.ignore),
            "keep": keep,
        }
        inputs = {"source": source}
        settings |= self._targets(runtime)
        if "module" in needs:
            settings |= self._model()
            inputs |= {"trained": trained} if trained else {}
        if "calibrator" in needs:
            settings["calibrator"] = self.recipe.calibrator
        if "goal" in needs:
            settings |= {**self._metric(), "max_drop": self.recipe.goal.max_drop}
            # The allowed drop counts from the original model: pruning uses up a part of it.
            inputs["original"] = self._export(None, "baseline", runtime)
        if "ranking" in needs or (keep and QUANTIZE_RANKERS.find(runtime)):
            inputs["ranking"] = self._quantize_ranking(runtime)
        entries, device = [entry, RUNTIMES.find(runtime)], self._processor(entry) | self._gpu(runtime)
        return self._add("quantize", f"{label}: quantizing", settings, inputs, entries, **device)

    def _trained(self, prune: Pruning, effort: float) -> str:
        method = self._recover.method
        if method == "qat":
            method = "distill"
        if method == "none":
            return self._pruned(prune)
        if effort > 1:
            # A longer recovery continues from the usual one, which is mostly cached already.
            source, effort = self._trained(prune, 1.0), effort - 1
        else:
            source = self._screened(prune) if self._is_screened(prune) else self._pruned(prune)
        settings = {**self._lesson(method), "effort": effort, "keep_zeros": _has_zeros(prune)}
        entries = [RECOVERIES.find(method)]
        return self._add("recover", f"{prune.name}: recovering", settings, {"pruned": source}, entries, trains=True)

    def _pruned(self, prune: Pruning) -> str:
        settings = {
            **self._model(),
            **self._data("calibration"),
            **prune.stored(),
            "ignore": list(self.recipe.ignore),
            **self._head(),
        }
        inputs = {"ranking": self._prune_ranking()} if prune.spread else {}
        return self._add("prune", f"{prune.name}: pruning", settings, inputs, [PRUNERS.find(prune.method)])

    def _screened(self, prune: Pruning) -> str:
        """Plan a short recovery, evaluated on the guiding half, from which the full recovery continues."""
        settings = {
            **self._lesson("distill"),
            **self._metric(),
            "keep_zeros": _has_zeros(prune),
            "effort": 1.0,
        }
        settings["data"] = {**settings["data"], **self._data("guide")["data"]}
        entries = [RECOVERIES.find("distill")]
        inputs = {"pruned": self._pruned(prune)}
        return self._add("screen", f"{prune.name}: a first look", settings, inputs, entries, trains=True)

    def _quantization_aware(
        self, trained: str | None, label: str, config: TrialConfig, rounding: catalogue.Rounding
    ) -> str:
        settings = {
            **self._lesson("qat"),
            "effort": 0.5,
            "precision": config.quantize,
            "rounding": asdict(rounding),
            "keep_zeros": config.prune is not None and _has_zeros(config.prune),
            "ignore": list(self.recipe.ignore),
        }
        inputs = {"pruned": trained} if trained else {}
        entries = [RECOVERIES.find("qat"), RECOVERIES.find("distill")]
        return self._add("recover", f"{label}: training with quantizers", settings, inputs, entries, trains=True)

    def _lesson(self, method: str) -> dict[str, Any]:
        taught_on = "train" if "train" in self._record.data else "calibration"
        settings = {
            **self._model(),
            **self._data(taught_on),
            "recover_on": taught_on,
            "method": method,
            "epochs": self._recover.epochs,
            "lr": self._recover.lr,
            "seed": self.recipe.seed,
            **self._head(),
        }
        if method == CALLABLE:
            settings["function"] = self._record.recover
        return settings

    def _prune_ranking(self) -> str:
        settings = {
            **self._model(),
            **self._data("calibration"),
            "of": "prune",
            "ignore": list(self.recipe.ignore),
            **self._head(),
        }
        entries = [PRUNE_RANKERS.find("structured")]
        key = self._add("sensitivity", "ranking layers by what pruning each alone costs", settings, {}, entries)
        self.plan.rankings["prune"] = key
        return key

    def _quantize_ranking(self, runtime: str) -> str:
        settings = {
            **self._data("calibration"),
            "of": "quantize",
            "runtime": runtime,
            "ignore": list(self.recipe.ignore),
        }
        inputs = {"source": self._export(None, "baseline", runtime)}
        label = f"ranking layers by what quantizing each alone costs on {runtime}"
        entries = [QUANTIZE_RANKERS.find(runtime), RUNTIMES.find(runtime)]
        key = self._add("sensitivity", label, settings, inputs, entries, **self._processor(entries[0]))
        self.plan.rankings[f"quantize@{runtime}"] = key
        return key

    def _export(self, trained: str | None, label: str, runtime: str) -> str:
        settings = {**self._model(), **self._data("calibration"), "runtime": runtime, **self._targets(runtime)}
        inputs = {"trained": trained} if trained else {}
        name, entries = f"{label}: building for {runtime}", [RUNTIMES.find(runtime)]
        return self._add("export", name, settings, inputs, entries, **self._gpu(runtime))

    def _evaluate(self, name: str, artifact: str, baseline: str | None, runtime: str, judged_on: str) -> str:
        settings = {**self._data(judged_on), **self._metric(), "judged_on": judged_on, "runtime": runtime}
        inputs = {"artifact": artifact}
        if baseline:
            # Where its outputs are too many to be kept, the baseline's file runs beside the trial's.
            inputs["original"] = baseline
            inputs["baseline"] = self._evaluate("baseline", baseline, None, runtime, judged_on)
        return self._add(
            "evaluate",
            f"{name}: measuring{' for the search' if judged_on == 'guide' else ''}",
            settings,
            inputs,
            [RUNTIMES.find(runtime)],
            is_measurement=True,
            machine=self._device.machine,
            **self._gpu(runtime),
        )

    def _latency(self, name: str, artifact: str, baseline: str | None, runtime: str) -> str:
        threads = self.recipe.latency.threads or self._device.cores
        settings = {
            **self._data("calibration"),
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
            device=self._device.cpu,
            cores=self._device.cores,
            **{"gpu": self._device.gpu, **self._gpu(runtime)},
        )

    def _targets(self, runtime: str) -> dict[str, Any]:
        entry = RUNTIMES.find(runtime)
        return {"targets": list(self.recipe.targets)} if entry and "targets" in entry.needs else {}

    def _processor(self, technique: Entry[Any] | None) -> dict[str, Any]:
        """Return the kind of processor for a stage whose result depends on its int8 arithmetic."""
        return {"machine": self._device.machine} if technique and "processor" in technique.needs else {}

    def _gpu(self, runtime: str) -> dict[str, Any]:
        """Return the GPU for a stage of a runtime that uses one, and that it wants one."""
        entry = RUNTIMES.find(runtime)
        return {"wants_gpu": True, "gpu": self._device.gpu} if entry and "gpu" in entry.needs else {}

    def _model(self) -> dict[str, Any]:
        return {"model": self._record.model}

    def _data(self, name: str) -> dict[str, Any]:
        return {"data": {name: self._record.data[name]}}

    def _metric(self) -> dict[str, Any]:
        """Return the settings of a measurement beside its files and data."""
        record = self._record
        postprocess = {"postprocess": record.postprocess} if record.postprocess else {}
        judging = self._judging.stored()
        recipe = {"seed": self.recipe.seed, "max_bytes": self.recipe.max_bytes}
        return {"metric": record.metric, **recipe, "judging": judging, **postprocess, **self._head()}

    def _head(self) -> dict[str, Any]:
        """Where the judged output lies, and the classes in it."""
        return {"class_dim": self._judging.raw_class_dim, "output": self._judging.output}

    @property
    def _judging(self) -> Judging:
        if self._record.understanding is None:
            raise RecipeError(
                "this study was submitted by an earlier version, which did not record how outputs are compared with "
                "targets; submit it again"
            )
        return self._record.understanding.judging

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
        wants_gpu: bool = False,
        **device: Any,
    ) -> str:
        material = {
            "kind": kind,
            "settings": {key: _digest_of(key, value) for key, value in settings.items()},
            "inputs": inputs,
            "stage": stages.fingerprint_of(kind),
            "techniques": [entry.fingerprint() for entry in entries if entry],
            "device": device,
        }
        key = hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()
        machine = str(device.get("machine", ""))
        stage = Stage(key, kind, label, settings, inputs, is_measurement, is_exclusive, trains, wants_gpu, machine)
        self._stages.setdefault(key, stage)
        return key


def _has_zeros(prune: Pruning) -> bool:
    return prune.method != "structured"


def _digest_of(key: str, value: Any) -> Any:
    """Return the digest of a reference's content, because a key must not depend on where bytes are stored."""
    if key == "model":
        return [value["digest"], *(["portable"] if "portable" in value else [])]
    if key in ("function", "postprocess"):
        return value["digest"]
    if key == "data":
        return {name: reference["digest"] for name, reference in value.items()}
    if key == "metric":
        return [{key: item for key, item in value.items() if key != "blob"}]
    return value
