"""How long things take before a person sees something: ``make bench``, or ``python benchmarks/startup.py``.

Prints the median of five fresh processes for the import, and for one study on a fresh engine and a warm one the
seconds from the call to the first point and, for the same study again, to its end.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 5
STUDY = """
import time, torch, quanttaas_jupyter as qt
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1152, 10))
data = (torch.randn(600, 1, 8, 8), torch.arange(600) % 10)
begun = time.perf_counter()
study = qt.compress(model, data, recipe={"prune": [0], "quantize": ["none", "int8"]}, name=NAME)
first = None
while not (state := study.state).has_ended:
    if first is None and (state.preview or state.done):
        first = time.perf_counter() - begun
    time.sleep(0.01)
ended = time.perf_counter() - begun
print(f"{first or ended:.2f} s to the first point, {ended:.2f} s to the end")
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    seconds = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        python("import quanttaas_jupyter")
        seconds.append(time.perf_counter() - begun)
    print(f"import quanttaas_jupyter in a fresh process: {statistics.median(seconds):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(QUANTTAAS_STORE=f"{folder}/store", QUANTTAAS_RUNTIME_DIR=f"{folder}/engine")
        print("no engine running:      ", python(STUDY.replace("NAME", "'cold'")))
        print("same study, new process:", python(STUDY.replace("NAME", "'again'")))
        os.environ["QUANTTAAS_STORE"] = str(Path(folder) / "other")
        print("warm engine, new store: ", python(STUDY.replace("NAME", "'warm'")))


if __name__ == "__main__":
    main()
