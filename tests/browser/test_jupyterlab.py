"""A person at work: a real JupyterLab in a real browser, from the cell to the loaded model."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.find_chromium import find

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "artifacts" / "screenshots"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
BUSY = """from pathlib import Path
import time
while not Path("go").exists():
    time.sleep(0.05)
print("no longer", "busy")"""
CHECK = """by_hand = accuracy(prune85_int8)
assert abs(by_hand - study["prune85-int8"].metrics["metric"]) < 1e-6
print("accuracy", "by hand:", by_hand)"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """JupyterLab on a free port, with a store and an engine of its own; its address and folder."""
    from tests.conftest import end_engines

    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("lab")
    write_notebook(folder / "work.ipynb")
    notifications = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notifications.parent.mkdir(parents=True)
    notifications.write_text(json.dumps({"fetchNews": "false"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = {
        "QUANTTAAS_STORE": str(home / "store"),
        "QUANTTAAS_RUNTIME_DIR": str(home / "run"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    options = [f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *options],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5).read()
            break
        except OSError:
            assert time.monotonic() < deadline, (home / "lab.log").read_text()
            time.sleep(0.2)
    yield f"{address}/lab/tree/work.ipynb?token={token}", folder
    server.terminate()
    server.wait(20)
    end_engines(home)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser: Browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def write_notebook(path: Path) -> None:
    """The quickstart up to its cell, then a cell that keeps the kernel busy, then a check by hand."""
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    last = next(index for index, source in enumerate(code) if source.startswith("%%quanttaas"))
    sources = ["\n\n".join(code[1:last]), code[last], BUSY, CHECK]
    cells = [nbformat.v4.new_code_cell(source) for source in [code[0], *sources]]
    notebook.cells = cells
    nbformat.write(notebook, path)


def execute(page: Page, command: str, **arguments: object) -> None:
    # Not awaited: running all cells ends only when the last cell has.
    page.evaluate(f"() => {{ window.jupyterapp.commands.execute({command!r}, {json.dumps(arguments)}); }}")


def open_notebook(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(".jp-Notebook")
    page.wait_for_function("window.jupyterapp !== undefined")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", state="attached")
    # Before its session is there, running a cell asks for a kernel.
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()


def run_all_cells(page: Page) -> None:
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


def points(page: Page) -> int:
    return page.locator(".quanttaas .dot_grp .dot, .quanttaas path.dot").count()


def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".quanttaas").first.scroll_into_view_if_needed()
    page.wait_for_timeout(800)  # the chart's fade, which a picture would catch halfway
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_points_arrive_while_another_cell_keeps_the_kernel_busy(lab: tuple[str, Path], page: Page) -> None:
    address, folder = lab
    open_notebook(page, address)
    run_all_cells(page)
    expect(page.locator(".quanttaas")).to_be_visible(timeout=120_000)
    page.wait_for_function("document.querySelectorAll('.quanttaas .dot').length >= 4", timeout=120_000)
    assert page.get_by_text("no longer busy").count() == 0
    screenshot(page, "running-light")
    (folder / "go").touch()
    expect(page.get_by_text("no longer busy")).to_be_visible()


def test_the_study_ends_with_a_recommendation(lab: tuple[str, Path], page: Page) -> None:
    expect(page.locator(".quanttaas").get_by_text("finished").first).to_be_visible(timeout=180_000)
    expect(page.locator(".quanttaas").get_by_text(re.compile(r"smaller.*accuracy")).first).to_be_visible()
    assert points(page) >= 15


def test_a_selected_point_is_loaded_into_the_notebook(lab: tuple[str, Path], page: Page) -> None:
    page.locator(".quanttaas select").first.select_option(label="prune85-int8")
    expect(
        page.locator(".quanttaas")
        .get_by_text("left in high precision")
        .or_(page.locator(".quanttaas").get_by_text("int8 in 10 of 10 layers"))
        .first
    ).to_be_visible()
    screenshot(page, "finished-light")
    page.get_by_role("button", name="Load into notebook").click()
    expect(page.get_by_text("call it as prune85_int8(inputs)")).to_be_visible()
    page.locator(".jp-Notebook .jp-CodeCell").last.locator(".cm-content").click()
    execute(page, "notebook:run-cell")
    expect(page.get_by_text("accuracy by hand: 0.9")).to_be_visible()


def test_a_click_on_a_point_opens_its_card(lab: tuple[str, Path], page: Page) -> None:
    page.locator(".quanttaas select").first.select_option(index=0)
    dots = page.locator(".quanttaas .dot")
    dots.last.click(force=True)
    expect(page.get_by_role("button", name="Load into notebook")).to_be_visible()


def test_it_looks_right_in_the_dark_and_at_half_width(lab: tuple[str, Path], page: Page) -> None:
    execute(page, "apputils:change-theme", theme="JupyterLab Dark")
    page.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
    screenshot(page, "finished-dark")
    page.set_viewport_size({"width": 900, "height": 1200})
    screenshot(page, "finished-dark-half")
    chart = page.locator(".quanttaas .bqplot").first.bounding_box()
    button = page.get_by_role("button", name="Load into notebook").bounding_box()
    assert chart is not None
    assert button is not None
    assert button["y"] > chart["y"] + chart["height"]
    page.set_viewport_size({"width": 1500, "height": 1100})
    execute(page, "apputils:change-theme", theme="JupyterLab Light")
    page.wait_for_selector("body[data-jp-theme-light='true']", state="attached")


def test_after_a_reload_the_chart_is_still_there(lab: tuple[str, Path], page: Page) -> None:
    execute(page, "docmanager:save")
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    page.reload()
    expect(page.locator(".quanttaas .bqplot").first).to_be_visible(timeout=120_000)
    page.wait_for_function("document.querySelectorAll('.quanttaas .dot').length >= 15")


def test_without_a_kernel_the_still_picture_and_table_remain(lab: tuple[str, Path], page: Page) -> None:
    _, folder = lab
    saved = nbformat.read(folder / "work.ipynb", as_version=4)
    outputs = [output for cell in saved.cells if cell.cell_type == "code" for output in cell.outputs]
    still = [output.data for output in outputs if "text/html" in output.get("data", {})]
    assert any("<details" in data["text/html"] and "prune85-int8" in data["text/html"] for data in still)
    assert any("image/png" in data and "prune85-int8" in data["text/plain"] for data in still)
    execute(page, "kernelmenu:shutdown")
    page.reload()
    page.wait_for_selector(".jp-Notebook")
    summary = page.locator("details summary").filter(has_text="best at").first
    expect(summary).to_be_visible()
    summary.click()
    expect(page.locator("details table").first).to_be_visible()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "without-kernel.png")
