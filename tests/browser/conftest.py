"""One JupyterLab and one page of a browser for the tests of a module, with the notebook that the module writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.jupyterlab import Lab, browsing, serving, write_notebook


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab over a folder with ``work.ipynb``, whose cells are the module's ``sources()``."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("lab")
    write_notebook(folder / "work.ipynb", request.module.sources())
    with serving(home, folder) as lab:
        yield lab


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browsing() as page:
        yield page
