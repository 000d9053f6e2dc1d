"""Numbers and names read as people write them."""

from __future__ import annotations

import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.core.catalogue import names
from quanttaas_jupyter.core.records.trial import Pruning, TrialConfig
from quanttaas_jupyter.views import format as fmt


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "–"),
        (0, "0 B"),
        (832, "832 B"),
        (999, "999 B"),
        (999.6, "1.00 KB"),
        (12_400, "12.4 KB"),
        (180_000, "180 KB"),
        (999_700, "1.00 MB"),
        (1_240_000, "1.24 MB"),
        (3.2e9, "3.20 GB"),
    ],
)
def test_a_size_has_three_digits_in_decimal_units(count: float | None, words: str) -> None:
    assert fmt.size(count) == words


def test_an_axis_drops_closing_zeros() -> None:
    assert fmt.size(1_000_000, trim=True) == "1 MB"
    assert fmt.size(1_200_000, trim=True) == "1.2 MB"
    assert fmt.latency(0.2, trim=True) == "0.2 ms"


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(None, "–"), (0.021, "21.0 µs"), (0.2, "0.20 ms"), (2.414, "2.41 ms"), (41.26, "41.3 ms"), (1240, "1.24 s")],
)
def test_a_latency_picks_its_unit(milliseconds: float | None, words: str) -> None:
    assert fmt.latency(milliseconds) == words


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.0935, "10.7x smaller"),
        (0.145, "6.9x smaller"),
        (0.005, "200x smaller"),
        (0.95, "1.05x smaller"),
        (1.0, "same size"),
        (1.005, "same size"),
        (1.25, "1.2x larger"),
        (None, ""),
        (0, ""),
    ],
)
def test_a_size_ratio_says_how_many_times_smaller(ratio: float | None, words: str) -> None:
    assert fmt.smaller(ratio) == words


def test_a_speedup_says_faster_or_slower() -> None:
    assert fmt.faster(3.07) == "3.1x faster"
    assert fmt.faster(0.5) == "2.0x slower"
    assert fmt.faster(1.01) == "same speed"
    assert fmt.faster(None) == ""
    assert fmt.faster(float("inf")) == ""


def test_a_percentage_and_its_interval() -> None:
    assert fmt.value(0.9893, True, 0.976, 0.995) == "98.9 %"
    assert fmt.interval(0.976, 0.995, True) == "97.6–99.5"
    assert fmt.value(0.9131, False) == "0.913"
    assert fmt.value(None, True) == "–"
    assert fmt.interval(0.976, None, True) == ""


def test_a_narrow_interval_earns_one_more_digit() -> None:
    assert fmt.value(0.98934, True, 0.988, 0.991) == "98.93 %"
    assert fmt.interval(0.988, 0.991, True) == "98.80–99.10"


def test_a_drop_is_in_points_and_positive_when_worse() -> None:
    assert fmt.drop(0.001, True, -0.004, 0.006) == "+0.1 pt"
    assert fmt.drop(-0.012, True) == "−1.2 pt"
    assert fmt.drop(0.02, False) == "+0.020"
    assert fmt.drop_interval(-0.004, 0.006, True) == "−0.4 to +0.6"


def test_what_rounds_to_nothing_has_no_sign() -> None:
    assert fmt.drop(-0.00001, True) == "0.0 pt"


def test_the_goal_in_words() -> None:
    assert fmt.allowance(0.01, True) == "1 point"
    assert fmt.allowance(0.005, True) == "0.5 points"
    assert fmt.allowance(0.02, False) == "0.02"


def test_durations() -> None:
    assert fmt.duration(0.2) == "1 s"
    assert fmt.duration(42) == "42 s"
    assert fmt.duration(190) == "3 min"
    assert fmt.duration(3600) == "1 h"
    assert fmt.duration(4830) == "1 h 20 min"
    assert fmt.time_left(38) == "about 40 s left"
    assert fmt.time_left(59) == "about 1 min left"
    assert fmt.time_left(2) == "a few seconds left"
    assert fmt.time_left(None) == ""


def test_every_quantization_has_its_own_colour() -> None:
    colors = [fmt.color_of(name) for name in names("quantize")]
    assert len(set(colors)) == len(colors)


def test_every_pruning_method_has_its_own_marker() -> None:
    prunings = [None, *(Pruning(name, 0.5) for name in names("prune"))]
    markers = [fmt.marker(TrialConfig(prune, "none", "torch")) for prune in prunings]
    assert markers[:3] == ["circle", "square", "diamond"]
    assert len(set(markers)) == len(prunings)


def test_a_pruning_of_nothing_is_no_pruning() -> None:
    assert fmt.marker(TrialConfig(Pruning(amount=0.0), "none", "torch")) == "circle"


def test_a_configuration_in_words() -> None:
    assert fmt.configuration(TrialConfig(Pruning(amount=0.5), "int8", "torch")) == "structured 50 % · int8 · torch"
    assert fmt.configuration(TrialConfig.baseline("torch")) == "not pruned · not quantized · torch"
    assert fmt.configuration(TrialConfig.of({})) == "not pruned · not quantized"


def test_a_variable_is_named_after_its_trial() -> None:
    assert fmt.variable("prune50-int8") == "prune50_int8"
    assert fmt.variable("2:4-int8") == "model_2_4_int8"
    assert fmt.variable("int8@torch") == "int8_torch"


def test_a_variable_clobbers_nothing() -> None:
    assert fmt.variable("int8", {"int8": 1}) == "int8_2"
    assert fmt.variable("int8", {"int8": 1, "int8_2": 2}) == "int8_3"
    assert fmt.variable("print") == "print_2"


@given(st.text(max_size=30))
def test_a_variable_is_a_valid_name_whatever_the_trial_is_called(trial: str) -> None:
    name = fmt.variable(trial)
    assert name.isidentifier()
    assert not keyword.iskeyword(name)


def test_a_file_overwrites_nothing_and_leaves_no_folder() -> None:
    assert fmt.filename("my study", "2:4-int8", ".onnx") == "my-study-2-4-int8.onnx"
    assert fmt.filename("s", "int8", ".onnx", {"s-int8.onnx"}) == "s-int8-2.onnx"
    assert "/" not in fmt.filename("../../etc", "a/b", ".onnx")


@pytest.mark.parametrize(
    ("amount", "text"), [(0.004, "less than $0.01"), (0.12, "$0.12"), (3.456, "$3.46"), (1234.5, "$1,234.50")]
)
def test_money(amount: float, text: str) -> None:
    assert fmt.money(amount) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "just now"),
        (59, "just now"),
        (250, "4 min ago"),
        (7300, "2 h ago"),
        (1e5, "yesterday"),
        (3e5, "3 days ago"),
    ],
)
def test_what_is_past_is_told_no_finer_than_by_the_minute(seconds: float, words: str) -> None:
    assert fmt.ago(seconds) == words


def test_shares_decibels_and_differences() -> None:
    assert fmt.share(0.434) == "43 %"
    assert fmt.share(1.0) == "100 %"
    assert fmt.share(0.1234, 1) == "12.3 %"
    assert fmt.decibels(31.25) == "31.2 dB"
    assert fmt.decibels(-3.21) == "−3.2 dB"
    assert fmt.difference(1.234e-6) == "1.2e-06"


def test_what_a_trial_with_numbers_waits_for_is_told() -> None:
    assert fmt.pending(110, 400) == "110 of 400 samples so far"
    assert fmt.pending(400, None) == "latency pending"
