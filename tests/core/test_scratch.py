"""Folders for temporary files."""

import os
import tempfile
import time
from pathlib import Path

from quanttaas_jupyter.core.scratch import remove_abandoned, usable


def test_a_folder_that_cannot_be_made_gives_way_to_the_systems(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert usable(tmp_path / "file" / "below") == Path(tempfile.gettempdir())
    assert usable(None) == Path(tempfile.gettempdir())
    assert usable(tmp_path / "new" / "folder").is_dir()


def test_what_killed_processes_left_goes_after_a_day_and_nothing_else(tmp_path: Path) -> None:
    for name in ("quanttaas-scratch-model-old", "quanttaas-scratch-model-new", "quanttaas-of-others"):
        (tmp_path / name).write_text("")
    (tmp_path / "quanttaas-scratch-data-old").mkdir()
    (tmp_path / "quanttaas-scratch-data-old" / "000000").write_text("")
    for name in ("quanttaas-scratch-model-old", "quanttaas-scratch-data-old", "quanttaas-of-others"):
        os.utime(tmp_path / name, (time.time() - 90_000,) * 2)
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"quanttaas-scratch-model-new", "quanttaas-of-others"}
