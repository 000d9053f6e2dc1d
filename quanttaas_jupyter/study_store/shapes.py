"""Forms of everything that a store holds as JSON: records, summaries, events, cache entries, leases and tickets.

Each form asks for what every version wrote, and checks the rest where it is there. Fields that are not named here are
ignored, so that a newer version may add some.
"""

from __future__ import annotations

from .door import SMALL, Kind
from .schema import (
    Shape,
    anything,
    count,
    each,
    flag,
    mapping,
    moment,
    number,
    one_of,
    optional,
    plain,
    record,
    row,
    size,
    text,
    word,
)

SHA = word(r"[0-9a-f]{64}", "SHA-256 digest")
_PLACE = word(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", "name of a cluster")
_REASON = record({"reason": text}, {"hint": text})
_GOAL = record({}, {"minimize": one_of("size", "latency"), "max_drop": optional(number)})
_NAMES = each(text)

_JUDGING = record(
    {},
    {
        "task": optional(text),
        "output": text,
        "output_dim": number,
        "target_dim": number,
        "class_dim": optional(number),
        "classes": optional(number),
        "scores": text,
        "labels": text,
        "ignore_label": optional(number),
        "codes": optional(row(number, number)),
        "is_shifted": flag,
        "is_cut": flag,
    },
)
_UNDERSTANDING = record(
    {"judging": _JUDGING},
    {
        "inputs": _NAMES,
        "targets": _NAMES,
        "unused": _NAMES,
        "left_out": _NAMES,
        "batch_dim": number,
        "metric": text,
        "higher_is_better": flag,
        "notes": _NAMES,
    },
)
_FUNCTION = record({}, {"name": text, "digest": text, "blob": SHA})
_DATA = record({}, {"digest": text, "shards": each(SHA), "samples": count, "labelled": flag, "outlines": SHA})
_METRIC = record({}, {"name": text, "shown": text, "higher_is_better": flag, "percent": flag, "blob": SHA})
_MODEL = record(
    {"class": text}, {"params": count, "bytes": count, "digest": text, "blob": SHA, "portable": mapping(anything)}
)

STUDY = Kind(
    "study.json",
    record(
        {
            "id": text,
            "name": text,
            "created": moment,
            "cluster": _PLACE,
            "recipe": record({"goal": _GOAL}),
            "model": _MODEL,
            "metric": _METRIC,
        },
        {
            "who": optional(text),
            "signer": text,
            "signature": text,
            "versions": mapping(optional(text)),
            "understanding": optional(_UNDERSTANDING),
            "notes": _NAMES,
            "data": mapping(_DATA),
            "postprocess": optional(_FUNCTION),
            "recover": optional(_FUNCTION),
        },
    ),
)

SUMMARY = Kind(
    "summary.json",
    record(
        {
            "id": text,
            "name": text,
            "created": moment,
            "cluster": _PLACE,
            "model": text,
            "status": one_of("queued", "running", "finished", "cancelled", "failed", "interrupted"),
            "seq": count,
            "total": count,
            "done": count,
            "failed": count,
            "cut": count,
            "best": text,
            "ended": optional(moment),
            "reason": text,
            "metric": record({"name": text, "higher_is_better": flag}),
            "minimize": text,
            "recommended": optional(record({"trial": text, "size_ratio": optional(size), "speedup": optional(size)})),
            "frontier": each(row(size, number)),
        }
    ),
)

_CONFIG = record(
    {},
    {
        "prune": optional(
            record(
                {},
                {"method": text, "amount": number, "importance": text, "scope": text, "spread": number},
            )
        ),
        "quantize": text,
        "runtime": text,
        "recover": text,
        "effort": number,
        "keep": optional(count),
    },
)
_AT_LEAST_0 = (
    "samples",
    "size_bytes",
    "size_ratio",
    "size_gzip_bytes",
    "latency_ms",
    "latency_p90_ms",
    "speedup",
    "gpu_memory_bytes",
    "params",
    "macs",
    "seconds",
)


def _metrics(value: object, where: str) -> None:
    mapping(optional(number))(value, where)
    record({}, dict.fromkeys(_AT_LEAST_0, optional(size)))(value, where)


def _preview(value: object, where: str) -> None:
    _metrics(value, where)
    record({"metric": optional(number), "size_bytes": optional(size)})(value, where)


_SIGNATURE: dict[str, Shape] = {
    "inputs": anything,
    "input_names": _NAMES,
    "outputs": anything,
    "fixed_batch": optional(count),
    "why_fixed": text,
}
_ARTIFACT = record(
    {"blob": SHA, "size": count},
    {"filename": text, "runtime": text, "kept": _NAMES, "choices": mapping(plain), "about": record({}, _SIGNATURE)},
)
_TRIAL: dict[str, Shape] = {
    "config": _CONFIG,
    "artifact": optional(_ARTIFACT),
    "warnings": _NAMES,
    "of_samples": optional(count),
}
_STAGE: dict[str, Shape] = {"stage": text, "label": text}
_COUNTS = mapping(count)

EVENTS: dict[str, Shape] = {
    "started": record(
        {"trials": each(record({"name": text, "config": _CONFIG}))},
        {
            "engine": text,
            "slots": count,
            "stages": _COUNTS,
            "cached": count,
            "metric": _METRIC,
            "goal": _GOAL,
            "notes": _NAMES,
        },
    ),
    "preview": record({"metrics": _preview}),
    "sensitivity": record({"of": text, "ranking": each(row(text, number))}),
    "trial_proposed": record({"trial": text, "config": _CONFIG}, {"stages": _COUNTS}),
    "stage_started": record(_STAGE),
    "progress": record({**_STAGE, "message": text}),
    "stage_finished": record({**_STAGE, "kind": text}, {"seconds": size}),
    "stage_retried": record({**_STAGE, "reason": text}),
    "stage_failed": record({**_STAGE, "kind": text, "reason": text}),
    "trial_measured": record({"trial": text, "metrics": _metrics}, _TRIAL),
    "trial_finished": record({"trial": text, "metrics": _metrics}, _TRIAL),
    "trial_failed": record({"trial": text, "error": _REASON}, _TRIAL),
    "trial_cut": record({"trial": text, "error": _REASON}, _TRIAL),
    "waiting": record({"what": text}),
    "cost": record({"amount": size}),
    "released": record({"reason": text}),
    "finished": record({}, {"recommendation": text, "usage": mapping(number), "reason": text}),
    "cancelled": record({}, {"reason": text}),
    "failed": record({}, {"reason": text}),
}
"""Forms of the events of ``core.state``; a type that is not here belongs to a newer version, and changes nothing."""

_ANY_EVENT = record({"seq": count, "time": moment, "type": text})


def _event(value: object, where: str) -> None:
    _ANY_EVENT(value, where)
    assert isinstance(value, dict)
    EVENTS.get(value["type"], anything)(value, where)


EVENT = Kind("event", _event)

STAGE = Kind(
    "cache entry",
    record(
        {"blobs": mapping(SHA)},
        {
            "facts": mapping(plain),
            "warnings": _NAMES,
            "choices": mapping(plain),
            "suffix": text,
            "kept": _NAMES,
            "about": record({}, {**_SIGNATURE, "modules": mapping(text), "weights": mapping(count)}),
            "ranking": optional(each(row(text, number))),
            "outputs": optional(record({}, {"digest": text, "shards": each(SHA), "outlines": SHA})),
            "began": moment,
            "seconds": size,
            "peak_bytes": count,
            "signature": text,
        },
    ),
)
PROPOSALS = Kind("cache entry", record({"blobs": mapping(SHA), "proposals": each(_CONFIG)}))

LEASE = Kind("lease", record({"owner": text, "engine": text, "until": number}), SMALL)
TICKET = Kind(
    "ticket",
    record(
        {"sha256": SHA, "resume": flag},
        {
            "study": text,
            "store": text,
            "cluster": text,
            "engine": text,
            "key": text,
            "signature": text,
            "time": moment,
            "nonce": word(r"[0-9a-f]{32}", "nonce"),
        },
    ),
    SMALL,
)
HANDED = Kind("ticket", record({"store": text, "study": text, "sha256": SHA, "resume": flag}), SMALL)
"""Ticket in the folder of this machine's engine."""
