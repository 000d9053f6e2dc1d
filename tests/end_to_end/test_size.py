"""No process holds a data set, or the outputs of one: the memory of a whole study, sampled while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MB = 10**6
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "samples", "kernel", "largest"),
    [
        # 480 MB of pictures, which a kernel that held them would hold once at least.
        ("pictures", 640, 330, 800),
        # 880 MB of scores, beside as many of the baseline.
        ("masks", 32, 450, 1000),
        # 2 GB of scores, beside as many of the baseline.
        ("words", 16, 700, 1300),
    ],
)
def test_memory_does_not_grow_with_data_or_outputs(
    work: str, samples: int, kernel: int, largest: int, home: Path
) -> None:
    command = [sys.executable, "-m", "tests.end_to_end.sized", work]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [trial[0] for trial in found["trials"].values()] == ["finished"] * 2, found
    assert {trial[1] for trial in found["trials"].values()} == {samples}
    assert found["kernel"] < kernel * MB
    assert found["largest"] < largest * MB
