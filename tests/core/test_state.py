"""The fold of events: what every view relies on, whatever the order and the reader's age."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.core.records.artifact import Artifact
from quanttaas_jupyter.core.state import (
    ENDED,
    LOG_LINES,
    Event,
    StudyState,
    TrialState,
    apply,
    fold,
    seconds_left,
    with_lease,
)

EMPTY = StudyState(id="7f3a", name="digits")
TRIALS = ("baseline", "prune50", "prune50-int8")
KINDS = ("prune", "export", "quantize")


def events(*given: tuple[str, dict[str, Any]], start: int = 1) -> list[Event]:
    return [
        {"seq": seq, "time": 100.0 + seq, "type": type_, **values} for seq, (type_, values) in enumerate(given, start)
    ]


def started(**values: Any) -> tuple[str, dict[str, Any]]:
    trials = [
        {"name": "baseline", "config": {"prune": None, "quantize": "none"}},
        {"name": "prune50", "config": {"prune": {"amount": 0.5}, "quantize": "none"}},
        {"name": "prune50-int8", "config": {"prune": {"amount": 0.5}, "quantize": "int8"}},
    ]
    stages = {"prune": 1, "export": 2, "quantize": 1}
    return "started", {"engine": "e1", "slots": 2, "trials": trials, "stages": stages, "cached": 3, **values}


def measured(name: str, **metrics: float) -> tuple[str, dict[str, Any]]:
    return "trial_measured", {"trial": name, "metrics": metrics, "artifact": {"blob": "ab", "size": 9}}


def finished(name: str, warnings: tuple[str, ...] = (), **metrics: float) -> tuple[str, dict[str, Any]]:
    artifact = {"blob": "ab", "size": 9}
    return "trial_finished", {"trial": name, "metrics": metrics, "artifact": artifact, "warnings": warnings}


def failed(name: str, reason: str = "no MatMul") -> tuple[str, dict[str, Any]]:
    return "trial_failed", {"trial": name, "error": {"reason": reason, "hint": "try int8"}}


def stage(what: str, key: str, kind: str = "prune", **values: Any) -> tuple[str, dict[str, Any]]:
    return f"stage_{what}", {"stage": key, "kind": kind, "label": f"{kind} {key}", **values}


class TestAStudy:
    def test_before_any_event_it_is_queued_and_empty(self) -> None:
        assert EMPTY.status == "queued"
        assert (EMPTY.done, EMPTY.failed, EMPTY.has_ended) == (0, 0, False)

    def test_starting_lists_every_trial_as_waiting(self) -> None:
        state = fold(events(started(metric={"name": "accuracy"}, goal={"max_drop": 0.01}, notes=["a note"])), EMPTY)
        assert state.status == "running"
        assert [(trial.name, trial.status) for trial in state.trials.values()] == [(name, "waiting") for name in TRIALS]
        assert (state.engine, state.slots, state.stages_cached) == ("e1", 2, 3)
        assert (state.metric, state.goal, state.notes) == ({"name": "accuracy"}, {"max_drop": 0.01}, ("a note",))
        assert (state.started, state.updated, state.ended) == (101.0, 101.0, None)

    def test_only_the_unchanged_model_is_the_baseline(self) -> None:
        state = fold(events(started()), EMPTY)
        assert [name for name, trial in state.trials.items() if trial.is_baseline] == ["baseline"]

    def test_the_preview_is_no_trial(self) -> None:
        state = fold(events(started(), ("preview", {"metrics": {"metric": 0.99}})), EMPTY)
        assert state.preview == {"metric": 0.99}
        assert list(state.trials) == list(TRIALS)

    def test_a_trial_is_measured_and_then_finished(self) -> None:
        script = events(
            started(), measured("prune50", metric=0.98), finished("prune50", ("uncertain",), latency_ms=2.0)
        )
        halfway = fold(script[:2], EMPTY).trials["prune50"]
        assert (halfway.status, halfway.metrics, halfway.artifact) == (
            "measured",
            {"metric": 0.98},
            Artifact("ab", 9),
        )
        done = fold(script, EMPTY)
        assert done.trials["prune50"].status == "finished"
        assert done.trials["prune50"].metrics == {"latency_ms": 2.0}
        assert done.trials["prune50"].warnings == ("uncertain",)
        assert (done.done, done.failed) == (1, 0)

    def test_a_failed_trial_stays_with_its_reason_and_in_the_log(self) -> None:
        state = fold(events(started(), failed("prune50-int8")), EMPTY)
        assert state.trials["prune50-int8"].status == "failed"
        assert state.trials["prune50-int8"].error == {"reason": "no MatMul", "hint": "try int8"}
        assert (state.log[-1].text, state.log[-1].level) == ("prune50-int8 failed: no MatMul", "error")
        assert state.failed == 1

    def test_a_trial_that_a_search_adds_later_appears(self) -> None:
        state = fold(events(started(), finished("prune70", metric=0.9)), EMPTY)
        assert list(state.trials) == [*TRIALS, "prune70"]

    def test_stages_run_and_leave(self) -> None:
        script = events(
            started(),
            stage("started", "p1"),
            ("progress", {"stage": "p1", "label": "prune p1", "message": "epoch 1"}),
            stage("retried", "p1", reason="a worker died"),
            stage("finished", "p1", seconds=4.0),
            stage("started", "q1", "quantize"),
            stage("failed", "q1", "quantize", reason="out of memory"),
        )
        running = fold(script[:4], EMPTY)
        assert running.running == {"p1": "prune p1"}
        state = fold(script, EMPTY)
        assert state.running == {}
        assert state.stages_left == {"prune": 0, "export": 2, "quantize": 0}
        assert state.stages_done == 1
        assert state.stage_seconds == {"prune": (1, 4.0)}
        assert [(line.text, line.level) for line in state.log] == [
            ("prune p1", "info"),
            ("prune p1: epoch 1", "info"),
            ("prune p1: trying again, a worker died", "warning"),
            ("quantize q1", "info"),
            ("quantize q1 failed: out of memory", "error"),
        ]

    def test_the_log_keeps_the_newest_lines_only(self) -> None:
        progress = [("progress", {"stage": "p", "label": "p", "message": str(n)}) for n in range(LOG_LINES + 50)]
        state = fold(events(*progress), EMPTY)
        assert len(state.log) == LOG_LINES
        assert state.log[-1].text == f"p: {LOG_LINES + 49}"

    def test_the_end_carries_the_recommendation(self) -> None:
        state = fold(events(started(), ("finished", {"recommendation": "take int8", "usage": {"seconds": 9.0}})), EMPTY)
        assert (state.status, state.recommendation, state.usage) == ("finished", "take int8", {"seconds": 9.0})
        assert state.has_ended
        assert state.ended == 102.0

    def test_a_cancelled_study_keeps_what_it_measured(self) -> None:
        script = events(
            started(),
            stage("started", "p1"),
            finished("baseline", metric=0.99),
            measured("prune50", metric=0.98),
            ("cancelled", {"reason": "you asked"}),
        )
        state = fold(script, EMPTY)
        assert (state.status, state.message, state.running, state.stages_left) == ("cancelled", "you asked", {}, {})
        assert [trial.status for trial in state.trials.values()] == ["finished", "cancelled", "cancelled"]
        assert state.trials["prune50"].metrics == {"metric": 0.98}

    def test_a_failed_study_says_why(self) -> None:
        state = fold(events(started(), ("failed", {"reason": "no space left"})), EMPTY)
        assert (state.status, state.error) == ("failed", "no space left")

    def test_resuming_keeps_finished_trials_and_tries_the_others_again(self) -> None:
        script = events(
            started(),
            finished("baseline", metric=0.99),
            failed("prune50"),
            ("failed", {"reason": "no space left"}),
            started(engine="e2", cached=5),
        )
        state = fold(script, EMPTY)
        assert [trial.status for trial in state.trials.values()] == ["finished", "waiting", "waiting"]
        assert state.trials["baseline"].metrics == {"metric": 0.99}
        assert state.trials["prune50"].error is None
        assert (state.status, state.error, state.message, state.ended, state.engine) == ("running", "", "", None, "e2")
        assert state.started == 101.0


class TestOnACluster:
    def test_what_is_waited_for_is_known_until_it_is_there(self) -> None:
        script = events(started(), ("waiting", {"what": "a GPU node"}))
        state = fold(script, EMPTY)
        assert (state.waiting, state.waiting_since) == ("a GPU node", script[-1]["time"])
        state = fold(events(started(), ("waiting", {"what": "a GPU node"}), ("waiting", {"what": ""})), EMPTY)
        assert (state.waiting, state.waiting_since) == ("", None)
        assert [line.text for line in state.log] == ["waiting for a GPU node", "a GPU node is there"]

    def test_the_end_of_a_study_ends_its_waiting(self) -> None:
        state = fold(events(started(), ("waiting", {"what": "a node"}), ("cancelled", {"reason": "r"})), EMPTY)
        assert (state.waiting, state.waiting_since) == ("", None)

    def test_costs_are_the_latest_told(self) -> None:
        script = events(started(), ("cost", {"amount": 0.1}), ("cost", {"amount": 0.3}))
        assert fold(script, EMPTY).cost == 0.3
        script = events(started(), ("cost", {"amount": 0.1}), ("finished", {"usage": {"cost": 0.5}}))
        assert fold(script, EMPTY).cost == 0.5

    def test_a_study_given_back_is_interrupted_with_the_reason(self) -> None:
        state = fold(events(started(), stage("started", "p1"), ("released", {"reason": "the engine was told"})), EMPTY)
        assert not state.running
        settled = with_lease(state, 0.0, queued=False, now=50.0)
        assert settled.status == "interrupted"
        assert settled.message == "the engine was told; resume goes on from here"
        again = fold(events(started(), ("released", {"reason": "r"}), started()), EMPTY)
        assert (again.status, again.message) == ("running", "")


class TestWhatTheLeaseSays:
    RUNNING = fold(events(started()), EMPTY)
    DONE = fold(events(started(), ("finished", {})), EMPTY)

    @pytest.mark.parametrize(
        ("state", "lease_until", "queued", "status"),
        [
            (EMPTY, None, False, "queued"),
            (EMPTY, None, True, "queued"),
            (EMPTY, 60.0, False, "running"),
            (EMPTY, 40.0, False, "interrupted"),
            (RUNNING, 60.0, False, "running"),
            (RUNNING, 60.0, True, "running"),
            (RUNNING, 50.0, False, "interrupted"),
            (RUNNING, None, False, "interrupted"),
            (RUNNING, 40.0, True, "queued"),
            (DONE, None, False, "finished"),
            (DONE, 60.0, False, "finished"),
            (DONE, 60.0, True, "running"),
            (DONE, 40.0, True, "queued"),
        ],
    )
    def test_status(self, state: StudyState, lease_until: float | None, queued: bool, status: str) -> None:
        assert with_lease(state, lease_until, queued, now=50.0).status == status

    def test_waiting_and_interrupted_say_what_to_expect(self) -> None:
        assert "waiting for an engine" in with_lease(EMPTY, None, True, 50.0).message
        assert "resume goes on" in with_lease(self.RUNNING, None, False, 50.0).message


class TestTimeLeft:
    def test_it_is_unknown_until_a_stage_has_ended(self) -> None:
        assert seconds_left(EMPTY) is None
        assert seconds_left(fold(events(started()), EMPTY)) is None

    def test_it_takes_the_mean_of_a_kind_and_the_overall_mean_where_a_kind_is_new(self) -> None:
        script = events(
            started(stages={"prune": 3, "export": 1}),
            stage("finished", "p1", seconds=4.0),
            stage("finished", "p2", seconds=8.0),
        )
        # One pruning of 6 s and one export of as many, on two slots.
        assert seconds_left(fold(script, EMPTY)) == 6.0

    def test_it_is_none_after_the_end(self) -> None:
        script = events(started(), stage("finished", "p1", seconds=4.0), ("finished", {}))
        assert seconds_left(fold(script, EMPTY)) is None


class TestSearch:
    PROPOSED = (
        "trial_proposed",
        {"trial": "prune70-int8", "config": {"prune": {"amount": 0.7}, "quantize": "int8"}, "stages": {"prune": 1}},
    )
    CUT = ("trial_cut", {"trial": "prune70-int8", "error": {"reason": "cut after a first look", "hint": ""}})

    def test_a_proposed_trial_waits_and_adds_its_stages(self) -> None:
        state = fold(events(started(stages={"prune": 1}), self.PROPOSED), EMPTY)
        assert list(state.trials)[-1] == "prune70-int8"
        assert state.trials["prune70-int8"].status == "waiting"
        assert state.stages_left["prune"] == 2

    def test_a_cut_trial_keeps_its_reason_and_stays_cut_when_the_study_starts_again(self) -> None:
        known = started()[1]["trials"]
        again = started(trials=[*known, {"name": "prune70-int8", "config": self.PROPOSED[1]["config"]}])
        state = fold(events(started(), self.PROPOSED, self.CUT, again), EMPTY)
        assert state.trials["prune70-int8"].status == "cut"
        assert state.cut == 1
        assert state.trials["prune70-int8"].error == {"reason": "cut after a first look", "hint": ""}

    def test_the_ranking_of_layers_is_kept_by_what_was_done_to_them(self) -> None:
        script = events(("sensitivity", {"of": "prune", "ranking": [["stem", 4.5], ["head", 30]]}))
        assert fold(script, EMPTY).sensitivity == {"prune": (("stem", 4.5), ("head", 30.0))}


trial_names = st.sampled_from([*TRIALS, "prune70"])
kinds = st.sampled_from(KINDS)
keys = st.sampled_from(["s1", "s2", "s3"])
metric_values = st.dictionaries(st.sampled_from(["metric", "drop", "size_bytes"]), st.none() | st.floats(), max_size=3)
unknown = st.text(max_size=12).filter(
    lambda type_: (
        type_ not in ("started", "preview", "progress", "finished", "cancelled", "failed", "sensitivity")
        and not type_.startswith(("stage_", "trial_"))
    )
)
known = st.one_of(
    st.builds(started, cached=st.integers(0, 9), slots=st.integers(0, 4)),
    st.builds(lambda metrics: ("preview", {"metrics": metrics}), metric_values),
    st.builds(stage, st.just("started"), keys, kinds),
    st.builds(stage, st.just("finished"), keys, kinds, seconds=st.floats(0, 1e4)),
    st.builds(stage, st.sampled_from(["retried", "failed"]), keys, kinds, reason=st.text(max_size=9)),
    st.builds(lambda key, text: ("progress", {"stage": key, "label": "l", "message": text}), keys, st.text(max_size=9)),
    st.builds(lambda trial, metrics: measured(trial, **metrics), trial_names, metric_values),
    st.builds(lambda trial, metrics: finished(trial, **metrics), trial_names, metric_values),
    st.builds(failed, trial_names, st.text(max_size=9)),
    st.builds(
        lambda trial, stages: ("trial_proposed", {"trial": trial, "config": {"prune": None}, "stages": stages}),
        trial_names,
        st.dictionaries(kinds, st.integers(0, 3)),
    ),
    st.builds(lambda trial: ("trial_cut", {"trial": trial, "error": {"reason": "r", "hint": ""}}), trial_names),
    st.builds(
        lambda ranking: ("sensitivity", {"of": "prune", "ranking": ranking}),
        st.lists(st.tuples(st.text(max_size=5), st.floats(0, 120)), max_size=4),
    ),
    st.sampled_from([("finished", {}), ("cancelled", {}), ("failed", {}), ("failed", {"reason": "x"})]),
)
strange = st.tuples(
    unknown, st.dictionaries(st.text(max_size=5).filter(lambda key: key not in ("seq", "time", "type")), st.integers())
)
logs = st.lists(known | strange, max_size=30).map(lambda given: events(*given))


@given(logs, st.data())
def test_a_prefix_and_the_rest_fold_to_the_same_as_all(log: list[Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(log)))
    assert same(fold(log[cut:], fold(log[:cut], EMPTY)), fold(log, EMPTY))


@given(logs, st.data())
def test_duplicates_change_nothing(log: list[Event], data: st.DataObject) -> None:
    stuttered: list[Event] = []
    for number, event in enumerate(log):
        stuttered.append(event)
        if number and data.draw(st.booleans()):
            stuttered.append(log[data.draw(st.integers(0, number))])
    assert same(fold(stuttered, EMPTY), fold(log, EMPTY))


@given(logs, st.data())
def test_a_gap_stops_the_fold_until_it_is_filled(log: list[Event], data: st.DataObject) -> None:
    if not log:
        return
    missing = data.draw(st.integers(0, len(log) - 1))
    gapped = fold(log[:missing] + log[missing + 1 :], EMPTY)
    assert same(gapped, fold(log[:missing], EMPTY))
    assert same(fold(log, gapped), fold(log, EMPTY))


@given(logs, strange)
def test_an_unknown_event_moves_only_the_sequence_and_the_time(
    log: list[Event], odd: tuple[str, dict[str, Any]]
) -> None:
    before = fold(log, EMPTY)
    [event] = events(odd, start=before.seq + 1)
    after = apply(before, event)
    assert same(replace(after, seq=before.seq, updated=before.updated), before)
    assert (after.seq, after.updated) == (event["seq"], event["time"])


@given(logs)
def test_folding_never_changes_the_state_it_started_from(log: list[Event]) -> None:
    states = [EMPTY]
    for event in log:
        states.append(apply(states[-1], event))
    assert StudyState(id="7f3a", name="digits") == EMPTY
    assert [state.seq for state in states] == list(range(len(log) + 1))


@given(logs)
def test_counts_and_statuses_hold_together(log: list[Event]) -> None:
    state = fold(log, EMPTY)
    statuses = [trial.status for trial in state.trials.values()]
    assert state.done + state.failed + state.cut <= len(statuses)
    assert all(name == trial.name for name, trial in state.trials.items())
    assert all(count >= 0 for count in state.stages_left.values())
    assert len(state.log) <= LOG_LINES
    assert state.has_ended == (state.status in ENDED)
    left = seconds_left(state)
    assert left is None or left >= 0
    assert all(isinstance(trial, TrialState) for trial in state.trials.values())


def same(one: StudyState, other: StudyState) -> bool:
    # By their text: a metric that is not a number is unequal to itself.
    return repr(one) == repr(other)


def test_numbers_of_a_part_of_the_samples_are_marked_until_all_are_judged() -> None:
    kind, values = measured("prune30", metric=0.9, samples=110)
    partial = fold(events(started(), (kind, {**values, "of_samples": 400})), EMPTY)
    assert partial.trials["prune30"].is_partial
    whole = fold(events(started(), (kind, {**values, "of_samples": 400}), measured("prune30", metric=0.8)), EMPTY)
    assert not whole.trials["prune30"].is_partial
    assert whole.trials["prune30"].metrics == {"metric": 0.8}


def test_numbers_of_a_part_of_the_samples_do_not_outlive_their_study() -> None:
    kind, values = measured("prune30", metric=0.9, samples=110)
    part, whole = (kind, {**values, "of_samples": 400}), measured("prune50", metric=0.8)
    state = fold(events(started(), part, whole, ("cancelled", {"reason": "on request"})), EMPTY)
    assert state.trials["prune30"].metrics == {}
    assert state.trials["prune50"].metrics == {"metric": 0.8}
    assert {state.trials[name].status for name in ("prune30", "prune50")} == {"cancelled"}
