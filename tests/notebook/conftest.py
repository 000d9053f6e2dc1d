"""Fixtures of the notebook's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from quanttaas_jupyter.core.state import StudyState
from tests.notebook.fakes import Script, folded


@pytest.fixture
def half() -> StudyState:
    """A study that runs, with eight trials measured and one failed."""
    return folded(Script().half())


@pytest.fixture
def whole() -> StudyState:
    """A study that has finished."""
    return folded(Script().whole())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
