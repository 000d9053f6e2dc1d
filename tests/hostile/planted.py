"""Small stores as a hostile or broken writer leaves them: one healthy study, and one that is planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import records

HEALTHY, PLANTED = "abcd1234", "evil6666"
SHA = "0" * 64
CONFIG = {
    "prune": {"method": "structured", "amount": 0.5, "importance": "auto", "scope": "global", "spread": 0.0},
    "quantize": "int8",
    "runtime": "onnxruntime",
}
BASELINE = {"prune": None, "quantize": "none", "runtime": "onnxruntime"}
METRICS = {
    "metric": 0.9,
    "metric_low": 0.8,
    "metric_high": 1.0,
    "drop": 0.01,
    "drop_low": 0.0,
    "drop_high": 0.02,
    "samples": 100,
    "size_bytes": 1000,
    "size_ratio": 0.5,
    "latency_ms": 1.0,
    "latency_p90_ms": 1.5,
    "speedup": 2.0,
    "params": 10,
    "pruned_share": 0.5,
    "macs": 100,
    "agreement": 1.0,
    "sqnr_db": 20.0,
    "export_error": 1e-6,
    "quantized_layers": 1,
    "quantizable_layers": 2,
    "seconds": 1.0,
}
ARTIFACT = {
    "blob": SHA,
    "size": 1000,
    "filename": "prune50-int8.onnx",
    "runtime": "onnxruntime",
    "kept": ["head"],
    "choices": {"importance": "taylor"},
    "about": {"inputs": "tensor", "input_names": ["input"], "outputs": "tensor", "fixed_batch": 1, "why_fixed": "x"},
}
DATA = {"digest": SHA, "shards": [SHA], "samples": 10, "labelled": True, "outlines": SHA, "bytes": 10}


def study(study_id: str = PLANTED) -> dict[str, Any]:
    """A complete ``study.json``."""
    goal = {"minimize": "size", "max_drop": 0.01}
    judging = {
        "task": "classification",
        "output": "logits",
        "output_dim": 0,
        "target_dim": 0,
        "class_dim": 1,
        "classes": 10,
        "scores": "logits",
        "labels": "ids",
        "ignore_label": -100,
        "codes": [0, 1],
        "is_shifted": False,
        "is_cut": True,
    }
    understanding = {
        "judging": judging,
        "inputs": ["input"],
        "targets": ["1"],
        "unused": ["a"],
        "left_out": ["b"],
        "batch_dim": 0,
        "metric": "accuracy",
        "higher_is_better": True,
        "notes": ["note"],
    }
    return {
        "format": 1,
        "id": study_id,
        "name": "net",
        "created": 1_795_967_420.0,
        "who": "somebody",
        "cluster": "local",
        "versions": {"python": "3.11.7"},
        "recipe": {"prune": [{"method": "structured", "amount": 0.5}], "quantize": ["int8"], "goal": goal},
        "model": {"class": "Net", "params": 10, "bytes": 40, "digest": SHA, "blob": SHA},
        "metric": {"name": "accuracy", "higher_is_better": True, "percent": True, "digest": "accuracy"},
        "understanding": understanding,
        "notes": ["a note"],
        "postprocess": {"name": "f", "digest": SHA, "blob": SHA},
        "recover": {"name": "g", "digest": SHA, "blob": SHA},
        "data": {"eval": DATA, "calibration": DATA},
    }


def summary(study_id: str = PLANTED) -> dict[str, Any]:
    """A complete ``summary.json``."""
    return {
        "id": study_id,
        "name": "net",
        "created": 1_795_967_420.0,
        "cluster": "local",
        "model": "Net",
        "status": "finished",
        "seq": 9,
        "total": 2,
        "done": 2,
        "failed": 0,
        "cut": 0,
        "best": "Take int8.",
        "ended": 1_795_967_430.0,
        "reason": "",
        "metric": {"name": "accuracy", "higher_is_better": True},
        "minimize": "size",
        "recommended": {"trial": "int8", "size_ratio": 0.25, "speedup": 2.0},
        "frontier": [[1000.0, 0.9], [2000.0, 0.95]],
    }


def events() -> list[dict[str, Any]]:
    """One event of each type, in the order of a study."""
    stage = {"stage": SHA, "kind": "quantize", "label": "int8: quantizing"}
    trials = [{"name": "baseline", "config": BASELINE}, {"name": "prune50-int8", "config": CONFIG}]
    metric = {"name": "accuracy", "higher_is_better": True, "percent": True}
    goal = {"minimize": "size", "max_drop": 0.01}
    trial = {"trial": "prune50-int8", "config": CONFIG, "metrics": METRICS, "artifact": ARTIFACT, "warnings": ["slow"]}
    base = {**trial, "trial": "baseline", "config": BASELINE}
    error = {"reason": "out of memory", "hint": "use fewer slots"}
    types: list[dict[str, Any]] = [
        {
            "type": "started",
            "engine": "host:1",
            "slots": 2,
            "trials": trials,
            "stages": {"quantize": 2},
            "cached": 1,
            "metric": metric,
            "goal": goal,
            "notes": ["a note"],
        },
        {"type": "preview", "metrics": METRICS},
        {"type": "sensitivity", "of": "prune", "ranking": [["head", 3.0], ["stem", 9.0]]},
        {"type": "stage_started", **stage},
        {"type": "progress", **stage, "message": "half"},
        {"type": "stage_retried", **stage, "reason": "died"},
        {"type": "stage_failed", **stage, "reason": "died"},
        {"type": "stage_finished", **stage, "began": 1.0, "seconds": 2.0},
        {"type": "trial_finished", **base},
        {"type": "trial_measured", **trial, "of_samples": 200},
        {"type": "trial_finished", **trial},
        {"type": "trial_proposed", "trial": "fp16", "config": CONFIG, "stages": {"export": 1}},
        {"type": "trial_failed", "trial": "fp16", "config": CONFIG, "error": error},
        {"type": "trial_proposed", "trial": "bf16", "config": CONFIG},
        {"type": "trial_cut", "trial": "bf16", "config": CONFIG, "error": error},
        {"type": "waiting", "what": "a GPU node"},
        {"type": "cost", "amount": 1.5},
        {"type": "released", "reason": "the engine was told to end"},
        {"type": "failed", "reason": "no"},
        {"type": "cancelled", "reason": "no"},
        {"type": "finished", "recommendation": "Take prune50-int8.", "usage": {"seconds": 9.0, "cost": 2.0}},
    ]
    return [{"seq": seq, "time": 1_795_967_420.0 + seq, **event} for seq, event in enumerate(types, 1)]


def cache_entry() -> dict[str, Any]:
    """A complete entry of the cache of stages."""
    return {
        "blobs": {},
        "facts": {"metric": 0.9, "recover": {"losses": [1.0]}},
        "warnings": ["slow"],
        "choices": {"importance": "taylor"},
        "kept": ["head"],
        "suffix": ".onnx",
        "about": {"inputs": "tensor", "input_names": ["x"], "outputs": "tensor", "modules": {"a": "Linear"}},
        "ranking": [["head", 3.0]],
        "outputs": DATA,
        "began": 1.0,
        "seconds": 2.0,
        "peak_bytes": 3,
    }


def ticket() -> dict[str, Any]:
    """A ticket of a queue."""
    return {
        "study": PLANTED,
        "sha256": SHA,
        "resume": False,
        "time": 1_795_967_420.0,
        "nonce": "0" * 32,
        "store": "file:///store",
        "cluster": "local",
        "engine": "e",
        "key": "k",
        "signature": "s",
    }


def lease() -> dict[str, Any]:
    """A lease that ran out."""
    return {"owner": "a", "engine": "host:1", "until": 1.0}


def dumped(values: object) -> bytes:
    """JSON as a writer without scruples writes it."""
    return json.dumps(values).encode()


def fields(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in nested JSON."""
    if path:
        yield path
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, item in items:
        yield from fields(item, (*path, key))


def changed(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested JSON with another value at a place."""
    copy = json.loads(json.dumps(values))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return copy


def plant(
    root: Path,
    study_json: bytes | None = None,
    events_json: list[bytes] | None = None,
    summary_json: bytes | None = None,
    study_id: str = PLANTED,
) -> LocalStore:
    """A store with a healthy study, and beside it one with the given content; None leaves the content healthy."""
    store = LocalStore(root)
    healthy = records.EventWriter(store, HEALTHY)
    record = StudyRecord.of(study(HEALTHY))
    records.create_study(store, record)
    healthy.append("started", trials=[])
    healthy.append("finished", recommendation="all good")
    healthy.write_summary(record)
    store.replace(f"studies/{study_id}/study.json", dumped(study()) if study_json is None else study_json)
    for seq, event in enumerate(map(dumped, events()) if events_json is None else events_json, 1):
        store.replace(f"studies/{study_id}/events/{seq:08d}.json", event)
    if summary_json is not None:
        store.replace(f"studies/{study_id}/summary.json", summary_json)
    return store
