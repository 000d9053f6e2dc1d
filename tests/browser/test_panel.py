"""A person who would rather click: the side panel in a real JupyterLab, from the form to the downloaded file."""

from __future__ import annotations

import re

import numpy as np
import onnxruntime
import pytest
import torch
from playwright.sync_api import Locator, Page, expect
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import quanttaas_jupyter as qt
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
    time.sleep(0.05)"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def sources() -> list[str]:
    """What trains the quickstart's model, in one cell."""
    before, _ = quickstart()
    return ["\n\n".join([before[0].replace("%load_ext quanttaas_jupyter", ""), *before[1:]])]


def panel(page: Page) -> Locator:
    return page.locator("#quanttaas-panel")


def field(page: Page, label: str) -> Locator:
    return panel(page).get_by_label(label, exact=True)


def line(page: Page) -> Locator:
    """The first study of the list."""
    return panel(page).locator(".qt-study").first


def cells(page: Page) -> list[str]:
    """The sources of the notebook's cells."""
    return page.evaluate(
        "() => Array.from(window.jupyterapp.shell.widgets('main')).find(widget => widget.content?.model?.cells)"
        ".content.widgets.map(cell => cell.model.sharedModel.source)"
    )


def screenshot(page: Page, name: str) -> None:
    """A picture of the whole window, in both themes."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("Dark", "Light"):
        set_theme(page, theme)
        page.wait_for_timeout(400)  # JupyterLab's stylesheet of a theme arrives after its attribute
        page.screenshot(path=SCREENSHOTS / f"{name}-{theme.lower()}.png")


def test_an_empty_panel_teaches_the_first_step(lab: Lab, page: Page) -> None:
    open_notebook(page, lab.url("work.ipynb"))
    page.get_by_role("tab", name="QuantTaaS: compress models").click()
    expect(panel(page).get_by_text("No model in this kernel yet")).to_be_visible()
    expect(panel(page).get_by_text("No study yet")).to_be_visible()
    expect(panel(page).get_by_text("this machine", exact=True)).to_be_visible()
    screenshot(page, "panel-empty")


def test_a_trained_model_appears_with_its_size_and_data_by_its_duty(lab: Lab, page: Page) -> None:
    run_all_cells(page)
    expect(field(page, "Model")).to_have_value("model", timeout=120_000)
    expect(field(page, "Model")).to_contain_text(re.compile(r"Net · 0\.\d+ M · .*MB · cpu"))
    expect(field(page, "Data")).to_have_value("test_loader")
    expect(field(page, "Train")).to_have_value("train_loader")


def test_the_form_counts_trials_and_says_what_is_wrong(lab: Lab, page: Page) -> None:
    field(page, "Search").select_option("grid")
    for amount in ("70", "85"):
        field(page, "percent of the parameters to remove").fill(amount)
        field(page, "percent of the parameters to remove").press("Enter")
    expect(panel(page).get_by_text(re.compile(r"^\d+ trials, \d+ stages"))).to_be_visible()
    field(page, "Lose at most").fill("-1")
    expect(panel(page).get_by_role("alert")).to_contain_text("goal.max_drop")
    expect(panel(page).get_by_text("One field is wrong.")).to_be_visible()
    expect(panel(page).get_by_role("button", name="Run", exact=True)).to_be_disabled()
    screenshot(page, "panel-wrong")
    field(page, "Lose at most").fill("0.01")
    expect(panel(page).locator(".qt-wrong")).to_have_count(0)


def test_insert_writes_the_cell_and_runs_nothing(lab: Lab, page: Page) -> None:
    panel(page).get_by_role("button", name="Insert cell").click()
    page.wait_for_function("document.querySelectorAll('.jp-Notebook .jp-CodeCell').length === 3")
    load, written = cells(page)[1:]
    assert load == "%load_ext quanttaas_jupyter"
    first, *recipe = written.splitlines()
    assert first.startswith("%%quanttaas model --data test_loader --train train_loader")
    assert qt.Recipe.parse("\n".join(recipe)).prune[-1].amount == 0.85
    execute(page, "notebook:delete-cell")
    execute(page, "notebook:delete-cell")


def test_task_labels_and_outputs_stand_under_more_and_reach_the_cell(lab: Lab, page: Page) -> None:
    panel(page).get_by_text("More", exact=True).click()
    field(page, "Task").select_option("classification")
    field(page, "Labels").fill("1")
    field(page, "Output").fill("0")
    field(page, "Batch dimension").fill("0")
    field(page, "Ignore label").fill("-100")
    field(page, "Ignore label").scroll_into_view_if_needed()
    screenshot(page, "panel-task")
    panel(page).get_by_role("button", name="Insert cell").click()
    page.wait_for_function("document.querySelectorAll('.jp-Notebook .jp-CodeCell').length === 3")
    first = cells(page)[2].splitlines()[0]
    assert "--task classification" in first
    assert "--labels 1 --output 0 --batch-dim 0 --ignore-label -100" in first
    execute(page, "notebook:delete-cell")
    execute(page, "notebook:delete-cell")
    field(page, "Task").select_option("")
    for name in ("Labels", "Output", "Batch dimension", "Ignore label"):
        field(page, name).fill("")
    panel(page).get_by_text("More", exact=True).click()


def test_run_starts_a_study_whose_points_arrive_while_the_kernel_is_busy(lab: Lab, page: Page) -> None:
    panel(page).get_by_role("button", name="Run", exact=True).click()
    expect(line(page)).to_be_visible(timeout=120_000)
    execute(page, "notebook:insert-cell-below")
    page.locator(".jp-Notebook .jp-CodeCell.jp-mod-active .cm-content").fill(BUSY)
    execute(page, "notebook:run-cell")
    expect(panel(page).get_by_text("Kernel busy")).to_be_visible()
    line(page).locator(".qt-study-open").click()
    study = page.locator(".qt-page")
    expect(study.locator(".qt-point").nth(1)).to_be_visible(timeout=120_000)
    screenshot(page, "panel-running")


def test_a_study_is_cancelled_and_resumed_while_the_kernel_is_busy(lab: Lab, page: Page) -> None:
    line(page).get_by_role("button", name="cancel").click()
    expect(line(page)).to_have_class(re.compile("qt-is-cancelled"), timeout=60_000)
    expect(page.locator(".qt-page").get_by_text("Cancelled.")).to_be_visible()
    line(page).get_by_role("button", name="resume").click()
    expect(line(page)).to_have_class(re.compile("qt-is-running"), timeout=60_000)
    expect(line(page)).to_have_class(re.compile("qt-is-finished"), timeout=240_000)
    expect(panel(page).get_by_text("Kernel busy")).to_be_visible()
    (lab.folder / "go").touch()
    expect(panel(page).get_by_text("Kernel busy")).to_have_count(0)


def test_a_point_is_reached_by_keyboard_and_its_card_has_the_numbers(lab: Lab, page: Page) -> None:
    study = page.locator(".qt-page")
    study.locator(".qt-point[tabindex='0']").focus()
    page.keyboard.press("Enter")
    first = study.locator(".qt-card b").inner_text()
    page.keyboard.press("ArrowRight")
    expect(study.locator(".qt-card b")).not_to_have_text(first)
    study.get_by_role("button", name="prune85-int8").first.click()
    expect(study.locator(".qt-card")).to_contain_text("smaller")
    screenshot(page, "panel-study")
    study.get_by_label("x:").select_option("latency")
    expect(study.get_by_text("latency, log scale")).to_be_visible()
    study.get_by_label("x:").select_option("size")


def test_after_a_reload_panel_and_study_are_there_again(lab: Lab, page: Page) -> None:
    # The command would save what is in front: the study's page.
    page.evaluate(
        "() => Array.from(window.jupyterapp.shell.widgets('main')).find(widget => widget.content?.model?.cells)"
        ".context.save()"
    )
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    page.wait_for_timeout(1500)  # JupyterLab saves its layout a second after it changed
    page.reload()
    expect(panel(page)).to_be_visible()
    expect(page.locator(".qt-page .qt-point").nth(9)).to_be_visible()
    expect(line(page)).to_have_class(re.compile("qt-is-finished"))


def test_a_downloaded_file_runs_in_onnx_runtime_as_it_was_measured(lab: Lab, page: Page) -> None:
    study = page.locator(".qt-page")
    study.get_by_role("button", name="prune85-int8").first.click()
    with page.expect_download() as download:
        study.get_by_role("link", name="Download").click()
    path = lab.folder / download.value.suggested_filename
    download.value.save_as(path)
    assert path.suffix == ".onnx"
    images, labels = load_digits(return_X_y=True)
    _, unseen = train_test_split(range(len(labels)), test_size=1 / 3, random_state=0, stratify=labels)
    session = onnxruntime.InferenceSession(path)
    inputs = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[unseen].numpy() / 16
    scores = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    accuracy = float(np.mean(scores.argmax(1) == labels[unseen]))
    measured = qt.studies(store=lab.home / "store")[0]
    trial = qt.open(measured.id, store=lab.home / "store")["prune85-int8"]
    assert accuracy == pytest.approx(trial.metrics["metric"])
    assert path.stat().st_size == trial.metrics["size_bytes"]


def test_a_study_is_deleted_after_saying_how_much_it_keeps(lab: Lab, page: Page) -> None:
    line(page).get_by_role("button", name="delete").click()
    dialog = page.locator(".jp-Dialog")
    expect(dialog).to_contain_text(re.compile(r"It keeps .* (KB|MB)"))
    dialog.get_by_role("button", name="Delete").click()
    expect(panel(page).get_by_text("No study yet")).to_be_visible()
    assert not qt.studies(store=lab.home / "store")


def test_the_magic_opens_the_panel(lab: Lab, page: Page) -> None:
    page.get_by_role("tab", name="QuantTaaS: compress models").click()
    expect(panel(page)).not_to_be_visible()
    execute(page, "notebook:insert-cell-below")
    page.locator(".jp-Notebook .jp-CodeCell.jp-mod-active .cm-content").fill("%quanttaas panel")
    execute(page, "notebook:run-cell")
    page.get_by_role("button", name="Open the side panel").last.click()
    expect(panel(page)).to_be_visible()
