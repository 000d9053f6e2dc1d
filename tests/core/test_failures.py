"""Exceptions in a line, and names that were nearly right."""

from __future__ import annotations

import pytest

from quanttaas_jupyter.core.errors import did_you_mean
from quanttaas_jupyter.core.failures import StageError, explain, first_line, last_line, one_line


@pytest.mark.parametrize(
    ("error", "line", "named"),
    [
        (ValueError("no such key\nat line 3"), "no such key", "ValueError: no such key"),
        (ValueError("\n  late start \n"), "late start", "ValueError: late start"),
        (ValueError(), "ValueError", "ValueError"),
        (RuntimeError("\x1b[96mred\x1b[0m words"), "red words", "RuntimeError: red words"),
        (RuntimeError("x" * 999), "x" * 300, f"RuntimeError: {'x' * 300}"),
    ],
)
def test_an_exception_is_quoted_by_its_first_line(error: Exception, line: str, named: str) -> None:
    assert first_line(error) == line
    assert one_line(error) == named


def test_of_an_error_that_carries_a_traceback_the_last_line_counts() -> None:
    error = RuntimeError("Caught in worker 0\nTraceback\nKeyError: 7")
    assert last_line(error) == "KeyError: 7"
    assert last_line(ValueError()) == "ValueError"


def test_a_stage_says_why_and_what_to_try() -> None:
    assert explain(StageError("no MatMul", "try int8")) == {"reason": "no MatMul", "hint": "try int8"}
    assert explain(MemoryError())["reason"] == "out of memory"
    assert explain(KeyError("x"))["reason"] == "KeyError: 'x'"


def test_a_misspelled_name_is_answered_by_the_nearest_known_one() -> None:
    assert did_you_mean("int9", ["fp16", "int8"]) == "did you mean 'int8'?"
    assert did_you_mean("acuracy", ["accuracy"], titles={"accuracy": "Accuracy"}) == "did you mean 'Accuracy'?"
    assert did_you_mean("zzz", ["fp16", "int8"], "there are fp16, int8") == "there are fp16, int8"
