"""Files that leave a store, and files that are loaded: names stay in their folder, and nobody's code runs."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.errors import DamagedBlob, NotTrusted, StoreError
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.core.file_names import plain_name
from quanttaas_jupyter.store import blobs, verified
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.techniques.runtimes import openvino_file, torch_graph
from quanttaas_jupyter.techniques.runtimes.plain_program import why_code
from tests.hostile import planted
from tests.hostile.planted import PLANTED


@given(st.text(max_size=300))
def test_no_name_leaves_its_folder(name: str) -> None:
    plain = plain_name(name, "file.bin")
    assert re.fullmatch(r"[\w.-]+", plain)
    assert (Path("/folder") / plain).resolve().parent == Path("/folder")
    assert not plain.startswith((".", "-"))
    assert len(plain) <= 120


def stored(tmp_path: Path, **artifact: Any) -> qt.Study:
    """A study whose trial ships a file with the given artifact."""
    store = LocalStore(tmp_path / "store")
    sha = blobs.put_bytes(store, b"content")
    log = planted.events()
    for event in log:
        if event.get("artifact"):
            event["artifact"] = {**event["artifact"], "blob": sha, **artifact}
    planted.plant(store.root, events_json=[planted.dumped(event) for event in log])
    return qt.open(PLANTED, store=store.root)


@pytest.mark.parametrize(
    "name", ["/tmp/owned", "../../owned", "..", "", ".bashrc", "a/b", "C:\\x", "a\nb", "-rf", "nul"]
)
def test_an_export_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out" / "deep"
    folder.mkdir(parents=True)
    path = stored(tmp_path, filename=name)["prune50-int8"].export(folder)
    assert path.parent == folder
    assert path.read_bytes() == b"content"
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["deep"]


def test_an_export_into_a_folder_overwrites_nothing_unasked(tmp_path: Path) -> None:
    trial = stored(tmp_path)["prune50-int8"]
    target = trial.export(tmp_path)
    target.write_bytes(b"mine")
    with pytest.raises(StoreError, match="exists already; export.folder, overwrite=True. replaces it"):
        trial.export(tmp_path)
    assert target.read_bytes() == b"mine"
    assert trial.export(tmp_path, overwrite=True).read_bytes() == b"content"
    assert trial.export(target).read_bytes() == b"content"


@pytest.mark.parametrize("damage", [b"", b"conten", b"contenT", b"content and more"])
def test_a_damaged_blob_is_told_set_aside_and_healed_by_the_next_submission(tmp_path: Path, damage: bytes) -> None:
    trial = stored(tmp_path)["prune50-int8"]
    store = LocalStore(tmp_path / "store")
    sha = blobs.put_bytes(store, b"content")
    (store.root / "blobs" / sha).write_bytes(damage)
    for _ in range(2):
        with pytest.raises(DamagedBlob, match="do not match its name; it was set aside"):
            trial.export(tmp_path / "file")
        with pytest.raises(DamagedBlob):
            blobs.get_bytes(store, sha)
    assert not blobs.has_blob(store, sha)
    assert [path.read_bytes() for path in (store.root / "damaged").iterdir()] == [damage]
    assert blobs.put_bytes(store, b"content") == sha
    assert trial.export(tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("damage", [b"", b"x"])
def test_a_blob_of_another_size_is_healed_without_being_opened(tmp_path: Path, damage: bytes) -> None:
    store, source = LocalStore(tmp_path / "store"), tmp_path / "source"
    source.write_bytes(b"content")
    puts: tuple[Callable[[], str], ...] = (
        lambda: blobs.put_bytes(store, b"content"),
        lambda: blobs.put_file(store, source),
        lambda: blobs.give_file(store, source),
    )
    for put in puts:
        sha = put()
        (store.root / "blobs" / sha).unlink()
        (store.root / "blobs" / sha).write_bytes(damage)
        put()
        assert blobs.get_bytes(store, sha) == b"content"


def test_an_open_file_is_verified_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    store = LocalStore(tmp_path)
    read: list[Path] = []
    sha = blobs.put_bytes(store, b"content")
    real = verified.digest_of

    def counted(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(verified, "digest_of", counted)
    for _ in range(3):
        with blobs.blob_file(store, sha) as path:
            assert path.read_bytes() == b"content"
    assert len(read) == 1
    path.chmod(0o600)
    path.write_bytes(b"contenT")
    with pytest.raises(DamagedBlob), blobs.blob_file(store, sha):
        pass


def test_a_file_that_others_can_exchange_is_copied_before_it_is_used(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    sha = blobs.put_bytes(store, b"content")
    (tmp_path / "blobs").chmod(0o777)
    with blobs.blob_file(store, sha) as path:
        assert path.parent != tmp_path / "blobs"
        (tmp_path / "blobs" / sha).write_bytes(b"evil")
        assert path.read_bytes() == b"content"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        self.constant = torch.ones(4)

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        return [self.layers(inputs[0]).reshape(inputs[0].shape[0], -1) + self.constant]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch_graph.save(Net().eval(), [torch.ones(3, 4)], [{0: torch.export.Dim.AUTO}], path)
    return path


def rewritten(program: Path, target: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> Path:
    """A copy of a program whose entries are changed."""
    with zipfile.ZipFile(program) as before, zipfile.ZipFile(target, "w") as after:
        for entry in before.infolist():
            data = change(entry.filename.partition("/")[2], before.read(entry))
            if data is not None:
                after.writestr(entry.filename, data)
        root = before.namelist()[0].partition("/")[0]
        for name, data in more.items():
            after.writestr(f"{root}/{name}", data)
    return target


def test_a_plain_program_needs_no_trust(program: Path) -> None:
    assert why_code(program) == ""


def test_a_program_with_another_text_anywhere_is_not_loaded(program: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        graph = json.loads(archive.read(name))
    owned = tmp_path / "owned"
    evil = f"__import__('pathlib').Path({str(owned)!r}).touch()"
    texts = [path for path in planted.fields(graph) if isinstance(_at(graph, path), str)]
    assert {str(path[-1]) for path in texts} >= {"target", "expr_str", "name"}
    for path in texts:
        data = planted.dumped(planted.changed(graph, path, evil))

        def change(name: str, old: bytes, new: bytes = data) -> bytes:
            return new if name == "models/model.json" else old

        assert why_code(rewritten(program, tmp_path / "evil.pt2", change)), path
    assert not owned.exists()


def _at(values: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("target", "torch.ops.load_library"),
        ("target", "torch.os.system"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "torch.ops.aten.__class__.mro"),
        ("target", "math.__loader__.load_module"),
        ("expr_str", "Symbol.__class__"),
        ("expr_str", "eval('1')"),
        ("expr_str", "Symbol('x').func"),
        ("expr_str", "[x for x in ()]"),
        ("expr_str", "(lambda: 1)()"),
        ("name", "x):\n    import os"),
    ],
)
def test_what_torch_would_look_up_or_evaluate_is_on_a_list(
    program: Path, tmp_path: Path, field: str, text: str
) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        graph = json.loads(data)
        path = next(path for path in planted.fields(graph) if path[-1] == field)
        return planted.dumped(planted.changed(graph, path, text))

    assert f"its {field} is" in why_code(rewritten(program, tmp_path / "evil.pt2", change))


def test_pickles_of_any_kind_are_found(program: Path, tmp_path: Path) -> None:
    def with_pickled_constant(name: str, data: bytes) -> bytes:
        if name != "data/constants/model_constants_config.json":
            return data
        config = json.loads(data)
        for item in config["config"].values():
            item["path_name"] = "opaque_obj_0"
        return planted.dumped(config)

    def with_sample_inputs(name: str, data: bytes) -> bytes:
        return b"\x80\x04." if name == "data/sample_inputs/model.pt" else data

    def same(name: str, data: bytes) -> bytes:
        return data

    assert "path_name" in why_code(rewritten(program, tmp_path / "1.pt2", with_pickled_constant))
    assert "sample inputs" in why_code(rewritten(program, tmp_path / "2.pt2", with_sample_inputs))
    legacy = {"data/constants/model.pt": b"x"}
    assert "it holds" in why_code(rewritten(program, tmp_path / "3.pt2", same, **legacy))
    assert "ambiguous" in why_code(rewritten(program, tmp_path / "4.pt2", same, **{"MODELS/model.json": b"{}"}))


def test_a_small_archive_that_becomes_large_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb", "w") as archive:
        archive.writestr("model.xml", b"<x/>")
        archive.writestr("model.bin", b"\0" * 50_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(StageError, match="would become much larger"):
        openvino_file.parts(tmp_path / "bomb")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(StageError, match="is no OpenVINO model"):
        openvino_file.parts(tmp_path / "junk")


def test_a_program_that_may_be_code_asks_for_trust(program: Path, tmp_path: Path) -> None:
    study = stored(tmp_path, runtime="torch")
    with pytest.raises(NotTrusted, match=r"may run code .*load\(trusted=True\)"):
        study["prune50-int8"].load()
