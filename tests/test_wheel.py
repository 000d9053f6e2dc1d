"""The wheel, built from the source alone and installed where there is no Node."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".venv", ".git", "node_modules", "artifacts", "lib", ".*_cache", "__pycache__", "*.tsbuildinfo"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment that holds the wheel; other packages are those of this one."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    # What was built before must not be what is tested.
    shutil.rmtree(source / "quanttaas_jupyter" / "labextension", ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(source))
    venv.create(place / "clean", with_pip=True)
    python = place / "clean" / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", *map(str, place.glob("*.whl")))
    packages = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(*command: str, path: str | None = None) -> str:
    # Elsewhere: where it starts, Python would find the source.
    done = subprocess.run(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(path),
        cwd=tempfile.gettempdir(),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def environment(path: str | None) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTHON"))}
    return {**outside, **({"PATH": path} if path else {})}


def test_jupyterlab_finds_the_panel_where_there_is_no_node(installed: Path) -> None:
    assert shutil.which("node", path=str(installed)) is None
    listed = run(str(installed / "python"), "-m", "jupyterlab.labextensions", "list", path=str(installed))
    panel = next(line for line in listed.splitlines() if "quanttaas-jupyter" in line)
    assert "enabled" in panel
    assert "OK" in panel
    assert str(installed.parent / "share" / "jupyter" / "labextensions") in listed


def test_the_server_finds_the_routes(installed: Path) -> None:
    code = "from jupyter_server.extension.serverextension import main; main()"
    listed = run(str(installed / "python"), "-c", code, "list", path=str(installed))
    routes = listed.split("Validating quanttaas_jupyter")[1].splitlines()[1]
    assert "OK" in routes


def test_the_package_is_the_one_of_the_wheel(installed: Path) -> None:
    found = run(str(installed / "python"), "-c", "import quanttaas_jupyter; print(quanttaas_jupyter.__file__)")
    assert str(installed.parent) in found
