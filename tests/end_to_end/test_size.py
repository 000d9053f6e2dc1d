"""No process holds a data set: the memory of a whole study, sampled while it runs."""

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
    ("work", "trials", "kernel", "largest", "together"),
    [
        # 480 MB of data; scores of 550 MB; scores of 1 GB, 103 MB of them for each sample.
        ("pictures", {"baseline": ["finished", 640], "int8": ["finished", 640]}, 480, 800, 2200),
        ("masks", {"baseline": ["finished", 20], "fp16": ["finished", 20]}, 900, 2300, 4200),
        ("words", {"baseline": ["finished", 8], "int8-weight": ["finished", 8]}, 1900, 2400, 4200),
    ],
)
def test_no_process_holds_the_data_or_the_outputs(
    work: str, trials: dict[str, list[object]], kernel: int, largest: int, together: int, home: Path
) -> None:
    command = [sys.executable, "-m", "tests.end_to_end.sized", work]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["trials"] == trials, found
    assert found["kernel"] < kernel * MB
    assert found["largest"] < largest * MB
    assert found["together"] < together * MB
