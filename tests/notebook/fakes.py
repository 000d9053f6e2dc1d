"""A study as the views see one: real events through the real fold, no engine behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quanttaas_jupyter.core.errors import QuantTaaSError
from quanttaas_jupyter.core.recipe import Recipe
from quanttaas_jupyter.core.state import StudyState, fold

START = 1_790_000_000.0
METRIC = {"name": "accuracy", "higher_is_better": True, "percent": True}
GOAL = {"minimize": "size", "max_drop": 0.01}

# name, prune, quantize, accuracy, half an interval, drop, drop's low and high, bytes, milliseconds
ROWS: list[tuple[Any, ...]] = [
    ("baseline", None, "none", 0.990, 0.008, 0.0, 0.0, 0.0, 1_240_000, 0.512),
    ("fp16", None, "fp16", 0.990, 0.008, 0.0, -0.001, 0.001, 624_000, 0.530),
    ("int8", None, "int8", 0.988, 0.009, 0.002, -0.002, 0.006, 322_000, 0.241),
    ("prune30", 0.3, "none", 0.991, 0.008, -0.001, -0.006, 0.004, 868_000, 0.391),
    ("prune30-fp16", 0.3, "fp16", 0.991, 0.008, -0.001, -0.006, 0.004, 437_000, 0.402),
    ("prune30-int8", 0.3, "int8", 0.989, 0.009, 0.001, -0.004, 0.006, 228_000, 0.198),
    ("prune50", 0.5, "none", 0.986, 0.009, 0.004, -0.003, 0.009, 621_000, 0.274),
    ("prune50-fp16", 0.5, "fp16", 0.986, 0.009, 0.004, -0.003, 0.009, 314_000, 0.281),
    ("prune50-int8", 0.5, "int8", 0.989, 0.009, 0.001, -0.004, 0.006, 180_000, 0.149),
    ("prune70", 0.7, "none", 0.981, 0.011, 0.009, -0.002, 0.016, 372_000, 0.187),
    ("prune70-fp16", 0.7, "fp16", 0.981, 0.011, 0.009, -0.002, 0.016, 189_500, 0.190),
    ("prune70-int8", 0.7, "int8", 0.983, 0.011, 0.007, -0.003, 0.015, 116_000, 0.104),
    ("unstructured80", -0.8, "none", 0.979, 0.011, 0.011, 0.003, 0.019, 1_240_000, 0.515),
    ("unstructured80-int8", -0.8, "int8", 0.974, 0.012, 0.016, 0.007, 0.024, 322_000, 0.243),
]


def config(prune: float | None, quantize: str) -> dict[str, Any]:
    method = "unstructured" if prune and prune < 0 else "structured"
    return {
        "prune": {"method": method, "amount": abs(prune)} if prune else None,
        "quantize": quantize,
        "runtime": "onnxruntime",
    }


def metrics(row: Sequence[Any], latency: bool = True) -> dict[str, Any]:
    _, prune, quantize, value, half, drop, low, high, size, milliseconds = row
    numbers = {
        "metric": value,
        "metric_low": value - 1.3 * half,
        "metric_high": min(1.0, value + 0.7 * half),
        "drop": drop,
        "drop_low": low,
        "drop_high": high,
        "samples": 597,
        "size_bytes": size,
        "size_ratio": size / 1_240_000,
        "size_gzip_bytes": int(size * (0.31 if prune and prune < 0 else 0.92)),
        "params": int(309_000 * (1 - (prune or 0 if (prune or 0) > 0 else 0))),
        "pruned_share": abs(prune or 0) or None,
        "agreement": 1 - abs(drop) - 0.002,
        "quantized_layers": 9 if quantize == "int8" else 0,
        "quantizable_layers": 10,
        "gpu_memory_bytes": None,
    }
    if latency:
        numbers |= {
            "latency_ms": milliseconds,
            "latency_p90_ms": milliseconds * 1.12,
            "speedup": 0.512 / milliseconds,
        }
    return numbers


def artifact(row: Sequence[Any]) -> dict[str, Any]:
    kept = {"kept": ["head.fc"]} if row[2] == "int8" else {}
    return {"blob": "ab" * 32, "size": row[8], "filename": f"{row[0]}.onnx", **kept}


class Script:
    """Writes a study's events, one after the other."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, type_: str, **values: Any) -> Script:
        seq = len(self.events) + 1
        self.events.append({"seq": seq, "time": START + 2.5 * seq, "type": type_, **values})
        return self

    def start(self, **values: Any) -> Script:
        trials = [{"name": row[0], "config": config(row[1], row[2])} for row in ROWS]
        trials.append({"name": "int4-weight", "config": config(None, "int4-weight")})
        given = {"metric": METRIC, "goal": GOAL, "stages": {"prune": 4, "quantize": 10, "measure": 15}}
        self.add("started", engine="e1", slots=2, trials=trials, cached=3, **(given | values))
        self.add("preview", metrics={"metric": 0.990, "size_bytes": 1_262_000})
        return self

    def trial(self, row: Sequence[Any]) -> Script:
        name = row[0]
        self.add("stage_started", stage=f"m-{name}", kind="measure", label=f"{name}: measuring")
        self.add("trial_measured", trial=name, metrics=metrics(row, latency=False), artifact=artifact(row))
        self.add("stage_finished", stage=f"m-{name}", kind="measure", label=name, seconds=4.0)
        warnings = ["the file is not smaller: zeros take as much room"] if "unstructured" in name else []
        self.add("trial_finished", trial=name, metrics=metrics(row), artifact=artifact(row), warnings=warnings)
        return self

    def failure(self) -> Script:
        reason = "it touches MatMul only, and this model has none"
        return self.add("trial_failed", trial="int4-weight", error={"reason": reason, "hint": "int8"})

    def progress(self) -> Script:
        self.add("stage_started", stage="d70", kind="recover", label="prune70: distilling")
        self.add("stage_started", stage="q50", kind="quantize", label="prune50-int8: calibrating")
        return self.add("progress", stage="d70", label="prune70: distilling", message="epoch 4 of 15, loss 0.021")

    def finish(self) -> Script:
        sentence = "prune70-int8 is 10.7x smaller and 4.9x faster, and loses 0.7 points at most 1.5"
        return self.add("finished", recommendation=sentence, usage={"seconds": 181.0})

    def half(self) -> Script:
        self.start()
        for row in ROWS[:8]:
            self.trial(row)
        return self.failure().progress()

    def whole(self) -> Script:
        self.start()
        for row in ROWS:
            self.trial(row)
        return self.failure().finish()


def empty() -> StudyState:
    return StudyState(id="7f3a", name="resnet-digits", created=START, message="waiting for an engine")


def folded(script: Script) -> StudyState:
    return fold(script.events, empty())


class FakeTrial:
    def __init__(self, study: FakeStudy, name: str) -> None:
        self._study, self._name = study, name

    def load(self) -> Callable[..., Any]:
        if self._study.error:
            raise self._study.error
        return lambda *inputs: inputs

    def export(self, path: Path) -> Path:
        if self._study.error:
            raise self._study.error
        path.write_bytes(b"onnx")
        return path


class FakeFollower:
    stopped = False

    def stop(self) -> None:
        self.stopped = True


class FakeStudy:
    """The contract of ``Study`` as far as a view needs it; ``show`` plays the follower's thread."""

    def __init__(self, state: StudyState) -> None:
        self.state = state
        self.recipe = Recipe.parse({"prune": [0, 0.3, 0.5, 0.7], "quantize": ["none", "fp16", "int8"]})
        self.error: Exception | None = None
        self.calls: list[str] = []
        self.callbacks: list[Callable[[StudyState], None]] = []
        self.followers: list[FakeFollower] = []

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def name(self) -> str:
        return self.state.name

    def __getitem__(self, trial: str) -> FakeTrial:
        return FakeTrial(self, trial)

    def cancel(self) -> None:
        self._called("cancel")

    def resume(self) -> None:
        self._called("resume")

    def _called(self, name: str) -> None:
        if self.error:
            raise self.error
        self.calls.append(name)

    def follow(self, callback: Callable[[StudyState], None]) -> FakeFollower:
        self.callbacks.append(callback)
        self.followers.append(FakeFollower())
        callback(self.state)
        return self.followers[-1]

    def show(self, state: StudyState) -> None:
        self.state = state
        for callback in self.callbacks:
            callback(state)


class Refusal(QuantTaaSError):
    """A mistake that a person can mend."""
