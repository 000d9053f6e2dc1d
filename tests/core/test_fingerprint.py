"""A stage's key must change with all code that its result depends on, and with nothing else."""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path

import pytest

from quanttaas_jupyter.core import fingerprint as fingerprints
from quanttaas_jupyter.core.fingerprint import fingerprint, imports_of, reachable
from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.planning.plan import Planner
from quanttaas_jupyter.techniques.prune import PRUNERS
from quanttaas_jupyter.techniques.quantize import QUANTIZERS
from quanttaas_jupyter.techniques.recover import RECOVERIES
from quanttaas_jupyter.techniques.runtimes import RUNTIMES
from tests.planning.test_plan import record

ROOT = Path(fingerprints.__file__).resolve().parents[1]
ENTRIES = [
    registry.find(key)
    for registry in (PRUNERS, RECOVERIES, QUANTIZERS, RUNTIMES)
    for key in registry.keys()  # noqa: SIM118
]
OPENVINO = "quanttaas_jupyter.techniques.quantize.openvino_nncf"
MODULES = sorted({entry.module for entry in ENTRIES if entry})


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package in a folder where it can be edited."""
    target = tmp_path / "quanttaas_jupyter"
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns("__pycache__", "labextension"))
    return target


def edit(root: Path, module: str) -> None:
    path = fingerprints._file_of(module, root)
    path.write_text(f"{path.read_text()}\n# edited\n")
    for cached in (fingerprint, reachable, imports_of, fingerprints._source_digest):
        cached.cache_clear()


def homes(reached: str) -> set[str]:
    """Modules of this package that what stands in a module's namespace comes from, asked of Python itself."""
    module = importlib.import_module(reached)
    found = set()
    for name, value in vars(module).items():
        is_child = getattr(value, "__name__", "") == f"{reached}.{name}"
        home = value.__name__ if inspect.ismodule(value) and not is_child else getattr(value, "__module__", "")
        if str(home).startswith("quanttaas_jupyter."):
            found.add(str(home))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_module_that_a_technique_takes_something_from_is_left_out(module: str) -> None:
    for reached in reachable(module):
        assert homes(reached) <= reachable(module), reached


@pytest.mark.parametrize("module", MODULES)
def test_an_edit_of_any_reachable_module_makes_a_technique_stale(module: str, copy: Path) -> None:
    for reached in sorted(reachable(module, copy)):
        before = fingerprint(module, copy)
        edit(copy, reached)
        assert fingerprint(module, copy) != before, reached


def test_imports_inside_functions_and_optional_packages_count() -> None:
    openvino = imports_of("quanttaas_jupyter.techniques.runtimes.openvino_file")
    assert "openvino" in openvino.libraries
    assert "torch" in imports_of("quanttaas_jupyter.techniques.quantize.fidelity").libraries


def test_imports_for_type_checkers_alone_do_not_count(copy: Path) -> None:
    path = copy / "techniques" / "recover" / "none.py"
    before = reachable("quanttaas_jupyter.techniques.recover.none", copy)
    path.write_text(
        path.read_text() + "\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ...store import gcs\n"
    )
    reachable.cache_clear()
    imports_of.cache_clear()
    assert reachable("quanttaas_jupyter.techniques.recover.none", copy) == before


def test_an_edit_two_imports_away_recomputes_what_depends_on_it_and_nothing_else(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``int8`` on OpenVINO imports ``fidelity``, which imports the measure of signal to noise."""
    real = fingerprint

    def keys() -> dict[str, str]:
        monkeypatch.setattr("quanttaas_jupyter.techniques.registry.fingerprint", lambda module: real(module, copy))
        monkeypatch.setattr("quanttaas_jupyter.stages.fingerprint", lambda module: real(module, copy))
        planner = Planner(record({"prune": [0], "quantize": ["int8", "fp16"], "runtime": ["openvino", "torch"]}))
        found = {}
        for runtime, quantization in (("openvino", "none"), ("openvino", "int8"), ("torch", "none"), ("torch", "fp16")):
            trial = planner.add(TrialConfig(None, quantization, runtime))
            found[trial.name] = trial.build
        return found

    before = keys()
    assert "quanttaas_jupyter.techniques.evaluate.sqnr" in reachable(OPENVINO, copy)
    assert "quanttaas_jupyter.techniques.evaluate.sqnr" not in imports_of(OPENVINO, copy).own
    edit(copy, "quanttaas_jupyter.techniques.quantize.fidelity")
    after = keys()
    assert {name for name in before if after[name] != before[name]} == {"int8@openvino"}


def test_versions_of_libraries_are_part_of_a_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "quanttaas_jupyter.techniques.quantize.onnx_static"
    before = fingerprint(module)
    fingerprint.cache_clear()
    real = fingerprints.version_of
    monkeypatch.setattr(fingerprints, "version_of", lambda name: "0" if name == "onnxruntime" else real(name))
    assert fingerprint(module) != before
    fingerprint.cache_clear()
