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
def test_480_mb_of_pictures_are_held_by_no_process(home: Path) -> None:
    command = [sys.executable, "-m", "tests.end_to_end.sized", "pictures"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["trials"] == {"baseline": ["finished", 640], "int8": ["finished", 640]}, found
    assert found["kernel"] < 440 * MB
    assert found["largest"] < 700 * MB
