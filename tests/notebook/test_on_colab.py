"""The notebook on the versions that Google Colab has: the views, and the main cell in a real kernel.

Other packages are those of this environment: Colab's torch and Python differ too, and are not tested here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
PINS = ("ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1", "bqplot==0.12.47", "jedi>=0.16")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with Colab's notebook packages before those of this one."""
    place = tmp_path_factory.mktemp("colab")
    venv.create(place)
    found = place / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", found, "install", "--quiet", *PINS)
    packages = run(found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "others.pth").write_text(sysconfig.get_path("purelib"))
    return found


def run(*command: Any) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, command)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_views_are_drawn(python: Path) -> None:
    versions = run(python, "-c", "import IPython, ipywidgets; print(IPython.__version__, ipywidgets.__version__)")
    assert versions.split() == ["7.34.0", "7.7.1"]
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(_tests, ("live_view", "still_view")))
    assert re.search(r"\d\d passed", said)


def test_the_quickstart_runs_to_its_recommendation(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Colab"}
    folder = tmp_path / "kernels" / "colab"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    (last,) = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("%%quanttaas")]
    cell = notebook.cells[last]
    cell.source = re.sub(r"(?m)^prune:.*$", "prune: [0, 0.7]", cell.source)
    check = "import ipywidgets\nstudy.wait()\nprint(ipywidgets.__version__, study.best(max_drop=0.05).name)"
    notebook.cells = [*notebook.cells[: last + 1], nbformat.v4.new_code_cell(check)]
    NotebookClient(notebook, kernel_name="colab", timeout=300).execute()
    shown = [output.get("data", {}) for output in cell.outputs]
    assert [output.output_type for output in cell.outputs if output.output_type == "stream"] == []
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    assert any("image/png" in data for data in shown)
    said = "".join(output.text for output in notebook.cells[-1].outputs if output.get("name") == "stdout")
    assert re.search(r"7\.7\.1 prune70-\w+", said)


def _tests(name: str) -> Path:
    return ROOT / "tests" / "notebook" / f"test_{name}.py"
