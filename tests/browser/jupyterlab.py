"""A real JupyterLab, and what a person does in it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.find_chromium import find
from tests.conftest import end_engines

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "artifacts" / "screenshots"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token, the folder of its notebooks, and where its studies live."""

    address: str
    token: str
    folder: Path
    home: Path

    def url(self, notebook: str) -> str:
        """Where a notebook opens."""
        return f"{self.address}/lab/tree/{notebook}?token={self.token}"


@contextmanager
def serving(home: Path, folder: Path) -> Iterator[Lab]:
    """JupyterLab on a free port, with a store, an engine and settings of its own."""
    notifications = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notifications.parent.mkdir(parents=True)
    notifications.write_text(json.dumps({"fetchNews": "false"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16), folder, home)
    settings = {
        "QUANTTAAS_STORE": str(home / "store"),
        "QUANTTAAS_RUNTIME_DIR": str(home / "run"),
        "QUANTTAAS_CONFIG": str(home / "config.yaml"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    options = [f"--port={port}", f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder}"]
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen([*command, *options], env={**os.environ, **settings}, stdout=log, stderr=log)
    try:
        _wait_for(f"{lab.address}/api/status?token={lab.token}", home / "lab.log")
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
        end_engines(home)


def _wait_for(address: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).read()
            return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


@contextmanager
def browsing() -> Iterator[Page]:
    """A page of headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def quickstart() -> tuple[list[str], str]:
    """The code of the quickstart before its cell of ours, and that cell."""
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    last = next(index for index, source in enumerate(code) if source.startswith("%%quanttaas"))
    return code[:last], code[last]


def write_notebook(path: Path, sources: list[str]) -> None:
    """A notebook of these cells, with a kernel named."""
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(notebook, path)


def execute(page: Page, command: str, **arguments: object) -> None:
    """Run a command of JupyterLab."""
    # Not awaited: running all cells ends only when the last cell has.
    page.evaluate(f"() => {{ window.jupyterapp.commands.execute({command!r}, {json.dumps(arguments)}); }}")


def open_notebook(page: Page, address: str) -> None:
    """Open a notebook and wait for its kernel."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook")
    page.wait_for_function("window.jupyterapp !== undefined")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", state="attached")
    # Before its session is there, running a cell asks for a kernel.
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()


def run_all_cells(page: Page) -> None:
    """Run all cells of the open notebook."""
    # A notebook that has just opened may not take the command yet, and does not say so.
    first = page.locator(".jp-Notebook .jp-InputPrompt").first
    for _ in range(3):
        execute(page, "notebook:run-all-cells")
        try:
            expect(first).not_to_have_text("[ ]:", timeout=20_000)
        except AssertionError:
            continue
        break
    ask = page.get_by_role("button", name="Select", exact=True)
    if ask.count():
        ask.click()


def set_theme(page: Page, name: str) -> None:
    """Light or Dark."""
    execute(page, "apputils:change-theme", theme=f"JupyterLab {name}")
    is_light = str(name == "Light").lower()
    page.wait_for_selector(f"body[data-jp-theme-light='{is_light}']", state="attached")
