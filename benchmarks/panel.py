"""What the side panel's server costs: lists of many studies over HTTP, from a folder and from a bucket.

    python benchmarks/panel.py [--studies 500] [--trials 50] [--polls 100]

Makes the studies, starts the real server, asks for the list twice as a panel does (the second time with the tag of the
first), then for lists and pages again and again, and reads what memory the server holds. The bucket is the emulator of
Google Cloud Storage (the ``test`` extra), whose start takes the square of its objects: there only the studies that are
opened have all their events, the others the first alone. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from quanttaas_jupyter.client.study import whoami
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.state import fold
from quanttaas_jupyter.study_store import records
from quanttaas_jupyter.study_store.summaries import summary_of
from tests.cloud import emulator
from tests.server.running import Answer, Client, server

# More than stay open, so that some are always opened anew.
OPENED = 20
COLUMNS = ("first list", "second list", "next lists", "a page first", "next pages", "RSS before", "RSS after")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--polls", type=int, default=100)
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        folder, bucket = Path(place) / "store", Path(place) / "data" / "bucket" / "store"
        fill(folder, args.studies, args.trials, whole=args.studies)
        rows["folder"] = measured(Path(place) / "folder", str(folder), args.polls)
        fill(bucket, args.studies, args.trials, whole=OPENED)
        # It starts with what lies in a folder for each bucket.
        with emulator(Path(place), Path(place) / "data") as cloud:
            os.environ |= {"STORAGE_EMULATOR_HOST": cloud.host, "QUANTTAAS_CACHE": f"{place}/cache"}
            rows["bucket (emulator)"] = measured(Path(place) / "bucket", "gs://bucket/store", args.polls)
    print(f"\n{args.studies} studies of {args.trials} trials; medians of {args.polls} lists and pages\n")
    print(f"| store | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (1 + len(COLUMNS)))
    for where, row in rows.items():
        print(f"| {where} | {' | '.join(row)} |")


def fill(folder: Path, count: int, trials: int, whole: int) -> None:
    """Write finished studies, so many of them with all the events that an engine writes for each trial."""
    for number in range(count):
        study = f"study{number:06d}"
        record = StudyRecord(
            id=study,
            name=f"study {number}",
            created=time.time() - number,
            cluster="local",
            recipe={"goal": {"minimize": "size", "max_drop": 0.01}},
            model={"class": "Net"},
            metric={"name": "accuracy", "higher_is_better": True, "percent": True},
            who=whoami(),
        )
        events = [{"seq": seq, "time": time.time(), **event} for seq, event in enumerate(events_of(record, trials), 1)]
        summary = summary_of(record, fold(events, records.initial_state(record)))
        files: dict[str, Any] = {"study.json": record.stored(), "summary.json": summary.stored()}
        kept = events if number < whole else events[:1]
        files |= {f"events/{event['seq']:08d}.json": event for event in kept}
        place = folder / "studies" / study
        (place / "events").mkdir(parents=True)
        # Not through the store, which waits for the disk at every file.
        for name, values in files.items():
            (place / name).write_text(json.dumps(values))


def events_of(record: StudyRecord, trials: int) -> list[dict[str, Any]]:
    """The events of a study with so many trials."""
    configs = {"baseline": {"prune": None, "quantize": "none", "runtime": "onnxruntime"}}
    for number in range(1, trials):
        prune = {"method": "structured", "amount": number / trials}
        configs[f"prune{number}-int8"] = {"prune": prune, "quantize": "int8", "runtime": "onnxruntime"}
    announced = [{"name": name, "config": config} for name, config in configs.items()]
    events: list[dict[str, Any]] = [
        {"type": "started", "trials": announced, "slots": 2, "metric": record.metric, "goal": record.goal}
    ]
    for number, name in enumerate(configs):
        share = 1 - number / trials
        metrics = {
            "metric": 0.99 - 0.1 * (1 - share) ** 3,
            "metric_low": 0.85,
            "metric_high": 0.995,
            "samples": 10_000,
            "drop": 0.1 * (1 - share) ** 3,
            "drop_low": 0.0,
            "drop_high": 0.11,
            "agreement": 0.97,
            "size_bytes": int(1e6 * share),
            "size_ratio": share,
            "params": int(3e5 * share),
            "latency_ms": 0.5 * share,
            "latency_p90_ms": 0.6 * share,
            "speedup": 1 / share,
        }
        artifact = {"blob": f"{number:064x}", "size": metrics["size_bytes"], "filename": f"{name}.onnx"}
        stage = {"stage": f"{number:064x}", "kind": "evaluate", "label": f"{name}: measuring"}
        events += [
            {"type": "stage_started", **stage},
            {"type": "trial_measured", "trial": name, "metrics": metrics, "artifact": artifact},
            {"type": "stage_finished", **stage, "seconds": 1.0},
            {"type": "trial_finished", "trial": name, "metrics": metrics, "artifact": artifact},
        ]
    return [*events, {"type": "finished", "recommendation": "all good", "usage": {}}]


def measured(home: Path, uri: str, polls: int) -> list[str]:
    """Start a server on a store and ask; what each column says."""
    home.mkdir()
    settings = {"QUANTTAAS_STORE": uri, "QUANTTAAS_CONFIG": str(home / "config.yaml")}
    with server(home, **settings, QUANTTAAS_RUNTIME_DIR=str(home / "run")) as client:
        client.get("service")
        first, listed = timed(client, "studies")
        second, _ = timed(client, "studies", listed)
        ids = [line["id"] for line in listed.json["studies"]]
        page, _ = timed(client, f"studies/{ids[0]}")
        # Each study that is opened stays open for a while: memory is compared once as many are as ever will be.
        for study in ids[:OPENED]:
            client.get(f"studies/{study}")
        before = resident(client)
        lists, pages = [], []
        for number in range(polls):
            seconds, answer = timed(client, "studies", listed)
            listed = answer if answer.status == 200 else listed
            lists.append(seconds)
            pages.append(timed(client, f"studies/{ids[0]}")[0])
            # Another study each time, as a person who browses does.
            client.get(f"studies/{ids[number % OPENED]}")
        after = resident(client)
    seconds = [first, second, statistics.median(lists), page, statistics.median(pages)]
    return [*(f"{value:.3f} s" for value in seconds), *(f"{value / 1e6:.0f} MB" for value in (before, after))]


def timed(client: Client, path: str, known: Answer | None = None) -> tuple[float, Answer]:
    """Seconds that an answer takes, and the answer; with what is known it may be that nothing changed."""
    headers = {"If-None-Match": known.headers["ETag"]} if known else {}
    begun = time.monotonic()
    answer = client.get(path, headers)
    return time.monotonic() - begun, answer


def resident(client: Client) -> int:
    """Bytes of memory that the server holds."""
    return int(psutil.Process(client.pid).memory_info().rss)


if __name__ == "__main__":
    main()
