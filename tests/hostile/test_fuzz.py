"""Mutations of everything that a store holds: each is read or told in one sentence, and none runs code.

``MUTATIONS`` says how many are tried; ``make test`` tries 10,000.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quanttaas_jupyter.core.errors import Unreadable
from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.records.summary import StudySummary
from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.core.state import StudyState, fold
from quanttaas_jupyter.server.study_list import line
from quanttaas_jupyter.server.study_page import page
from quanttaas_jupyter.study_store import door, records, shapes
from quanttaas_jupyter.study_store.summaries import summary_of
from quanttaas_jupyter.views.text import study_text
from tests.hostile import planted
from tests.hostile.planted import PLANTED

MUTATIONS = int(os.environ.get("MUTATIONS", "400"))
FORBIDDEN = (
    "os.system",
    "os.exec",
    "subprocess.Popen",
    "pickle.find_class",
    "shutil.rmtree",
    "os.remove",
    "socket.connect",
)
EXTREMES: list[Any] = [
    0,
    -1,
    2**63,
    10**400,
    1e308,
    -1e308,
    1e-308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "\ud800",
    "a" * 30_000,
]

_forbidden: list[str] | None = None


def _hook(event: str, _: tuple[Any, ...]) -> None:
    if _forbidden is not None and event in FORBIDDEN:
        _forbidden.append(event)


@contextmanager
def nothing_run() -> Iterator[None]:
    """Assert that no code is loaded, no process started and no file removed."""
    global _forbidden
    _forbidden = []
    try:
        yield
        assert _forbidden == []
    finally:
        _forbidden = None


sys.addaudithook(_hook)

EVENTS = planted.events()
BEFORE = [fold(EVENTS[:at], StudyState(id=PLANTED)) for at in range(len(EVENTS))]


def see(state: StudyState, axis: str) -> None:
    json.dumps(page("file:///store", state, axis, axis == "size"), allow_nan=False, ensure_ascii=False).encode()
    study_text(state, None).encode()


def study(data: bytes, axis: str) -> None:
    record = records.parse_study(data, PLANTED)
    assert record.id == PLANTED
    see(records.initial_state(record), axis)
    summary_of(record, records.initial_state(record))


def event(data: bytes, axis: str) -> None:
    values = door.parsed(data, shapes.EVENT)
    after = [BEFORE[0], BEFORE[-1]]
    after += [BEFORE[values["seq"] - 1]] if 0 < values["seq"] <= len(BEFORE) else []
    for state in after:
        folded = fold([{**values, "seq": state.seq + 1}], state)
        see(folded, axis)
        summary_of(StudyRecord.of(planted.study()), folded)


def summary(data: bytes, axis: str) -> None:
    shown = line("file:///store", StudySummary.of(door.parsed(data, shapes.SUMMARY)), 1.8e9)
    json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()


def cache_entry(data: bytes, axis: str) -> None:
    result = StageResult.of(door.parsed(data, shapes.STAGE))
    json.dumps(result.stored(), allow_nan=False)


def proposals(data: bytes, axis: str) -> None:
    for config in door.parsed(data, shapes.PROPOSALS)["proposals"]:
        json.dumps(TrialConfig.of(config).stored())


def ticket(data: bytes, axis: str) -> None:
    values = door.parsed(data, shapes.TICKET)
    assert len(values["sha256"]) == 64


def lease(data: bytes, axis: str) -> None:
    assert isinstance(door.parsed(data, shapes.LEASE)["until"], int | float)


KINDS: dict[str, tuple[Callable[[bytes, str], None], list[dict[str, Any]]]] = {
    "study": (study, [planted.study()]),
    "event": (event, EVENTS),
    "summary": (summary, [planted.summary()]),
    "cache entry": (cache_entry, [planted.cache_entry()]),
    "proposals": (proposals, [{"blobs": {}, "proposals": [planted.CONFIG, planted.BASELINE]}]),
    "ticket": (ticket, [planted.ticket()]),
    "lease": (lease, [planted.lease()]),
}
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(EXTREMES)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KNOWN = [[(values, path) for path in planted.fields(values)] for _, examples in KINDS.values() for values in examples]
PLACES = [item for items in KNOWN for item in items]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Callable[[bytes, str], None], bytes]:
    """A reader, and content with values exchanged, removed or taken from elsewhere, or with broken bytes."""
    read, examples = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    values: Any = draw(st.sampled_from(examples))
    for _ in range(draw(st.integers(1, 3))):
        places = list(planted.fields(values))
        if not places:
            break
        path = draw(st.sampled_from(places))
        how = draw(st.integers(0, 3))
        if how == 0:
            values = planted.changed(values, path, draw(VALUES))
        elif how == 1:
            values = without(values, path)
        else:
            other, place = draw(st.sampled_from(PLACES))
            values = planted.changed(values, path, at(other, place))
        if not isinstance(values, dict):
            break
    data = planted.dumped(values)
    if draw(st.integers(0, 9)) == 0:
        position = draw(st.integers(0, len(data)))
        data = data[:position] + draw(st.binary(max_size=4)) + data[position + draw(st.integers(0, 3)) :]
    return read, data


def at(values: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def without(values: Any, path: tuple[Any, ...]) -> Any:
    copy = json.loads(json.dumps(values))
    del at(copy, path[:-1])[path[-1]]
    return copy


@settings(max_examples=MUTATIONS, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated(), st.sampled_from(["size", "latency"]))
def test_a_mutation_is_read_or_told_and_runs_nothing(
    case: tuple[Callable[[bytes, str], None], bytes], axis: str
) -> None:
    read, data = case
    with nothing_run():
        try:
            read(data, axis)
        except Unreadable as error:
            said = str(error)
        else:
            said = ""
    assert "\n" not in said


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_mutated_is_read(kind: str) -> None:
    read, examples = KINDS[kind]
    for values in examples:
        read(planted.dumped(values), "size")
