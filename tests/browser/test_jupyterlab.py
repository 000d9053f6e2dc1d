"""A person at work: a real JupyterLab in a real browser, from the cell to the loaded model."""

from __future__ import annotations

import re

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.jupyterlab import (
    SCREENSHOTS,
    Lab,
    execute,
    open_notebook,
    quickstart,
    run_all_cells,
    set_theme,
)

BUSY = """from pathlib import Path
import time
while not Path("go").exists():
    time.sleep(0.05)
print("no longer", "busy")"""
CHECK = """by_hand = accuracy(prune85_int8)
assert abs(by_hand - study["prune85-int8"].metrics["metric"]) < 1e-6
print("accuracy", "by hand:", by_hand)"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def sources() -> list[str]:
    """The quickstart up to its cell, then a cell that keeps the kernel busy, then a check by hand."""
    before, cell = quickstart()
    return [before[0], "\n\n".join(before[1:]), cell, BUSY, CHECK]


def points(page: Page) -> int:
    return page.locator(".quanttaas .dot_grp .dot, .quanttaas path.dot").count()


def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".quanttaas").first.scroll_into_view_if_needed()
    page.wait_for_timeout(800)  # the chart's fade, which a picture would catch halfway
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_points_arrive_while_another_cell_keeps_the_kernel_busy(lab: Lab, page: Page) -> None:
    open_notebook(page, lab.url("work.ipynb"))
    run_all_cells(page)
    expect(page.locator(".quanttaas")).to_be_visible(timeout=120_000)
    page.wait_for_function("document.querySelectorAll('.quanttaas .dot').length >= 4", timeout=120_000)
    assert page.get_by_text("no longer busy").count() == 0
    screenshot(page, "running-light")
    (lab.folder / "go").touch()
    expect(page.get_by_text("no longer busy")).to_be_visible()


def test_the_study_ends_with_a_recommendation(lab: Lab, page: Page) -> None:
    expect(page.locator(".quanttaas").get_by_text("finished").first).to_be_visible(timeout=180_000)
    expect(page.locator(".quanttaas").get_by_text(re.compile(r"smaller.*accuracy")).first).to_be_visible()
    assert points(page) >= 15


def test_a_selected_point_is_loaded_into_the_notebook(lab: Lab, page: Page) -> None:
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


def test_a_click_on_a_point_opens_its_card(lab: Lab, page: Page) -> None:
    page.locator(".quanttaas select").first.select_option(index=0)
    dots = page.locator(".quanttaas .dot")
    dots.last.click(force=True)
    expect(page.get_by_role("button", name="Load into notebook")).to_be_visible()


def test_it_looks_right_in_the_dark_and_at_half_width(lab: Lab, page: Page) -> None:
    set_theme(page, "Dark")
    screenshot(page, "finished-dark")
    page.set_viewport_size({"width": 900, "height": 1200})
    screenshot(page, "finished-dark-half")
    chart = page.locator(".quanttaas .bqplot").first.bounding_box()
    button = page.get_by_role("button", name="Load into notebook").bounding_box()
    assert chart is not None
    assert button is not None
    assert button["y"] > chart["y"] + chart["height"]
    page.set_viewport_size({"width": 1500, "height": 1100})
    set_theme(page, "Light")


def test_after_a_reload_the_chart_is_still_there(lab: Lab, page: Page) -> None:
    execute(page, "docmanager:save")
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    page.reload()
    expect(page.locator(".quanttaas .bqplot").first).to_be_visible(timeout=120_000)
    page.wait_for_function("document.querySelectorAll('.quanttaas .dot').length >= 15")


def test_without_a_kernel_the_still_picture_and_table_remain(lab: Lab, page: Page) -> None:
    saved = nbformat.read(lab.folder / "work.ipynb", as_version=4)
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
