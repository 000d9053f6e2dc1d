from collections.abc import Sequence
from typing import Any

import numpy as np

from quanttaas_jupyter.techniques.evaluate import latency
from quanttaas_jupyter.techniques.runtimes import Session


def test_latency_takes_turns_after_ten_warm_ups() -> None:
    calls: list[str] = []

    def session(name: str) -> Session:
        def run(arrays: Sequence[Any]) -> list[Any]:
            calls.append(name)
            return []

        return run

    found = latency.interleaved_latency([latency.timed(session(name), []) for name in ("a", "b")])
    assert calls[:20] == ["a", "b"] * 10
    assert calls[20:50] == ["a"] * 10 + ["b"] * 10 + ["a"] * 10
    assert len(found[0]) == len(found[1]) >= 100
    assert len(calls) == 20 + 2 * len(found[0])
    assert (np.array(found) >= 0).all()
