"""Memory of this machine and of this process."""

import numpy as np

from quanttaas_jupyter.core.memory import Peak, free_bytes, killed_for_memory


def test_the_peak_of_a_block_holds_what_it_gave_back() -> None:
    with Peak() as before:
        pass
    with Peak() as memory:
        np.ones(40_000_000)
    assert memory.bytes - before.bytes > 100_000_000


def test_free_memory_falls_when_it_is_taken() -> None:
    before = free_bytes()
    held = np.ones(100_000_000)
    assert before - free_bytes() > held.nbytes / 2


def test_processes_killed_for_memory_are_counted() -> None:
    assert killed_for_memory() >= 0
