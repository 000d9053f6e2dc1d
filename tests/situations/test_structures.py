"""How batches are nested, and which part of them is input or target; every right number is computed by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from quanttaas_jupyter.core.errors import DataError
from tests.situations.trying import CLOSE, cut, mean, measured, refused, tried


def known(count: int = 60, wrong: int = 12) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A model, points, and labels of which it gets all but ``wrong`` right."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % 3
    return net, x, y


class Taking(nn.Module):
    """Wraps a model's forward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class OneDict(Taking):
    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.inner(batch["deep"]["x"]) + batch["offset"]


class Keywords(Taking):
    def forward(self, *, x: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        out = self.inner(x)
        return out if offset is None else out + offset


class ListOfImages(nn.Module):
    """Takes pictures as a list, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.layer(image[None]).mean((2, 3))[0] for image in images])


class Answer(Taking):
    def forward(self, x: torch.Tensor) -> Any:
        return Answered(self.inner(x), None, {"twice": 2 * x})


@dataclasses.dataclass
class Answered:
    scores: torch.Tensor
    nothing: Any
    more: dict[str, torch.Tensor]


@dataclasses.dataclass
class Example:
    x: torch.Tensor
    target: torch.Tensor


def test_a_nested_dict_is_one_argument(tmp_path: Path) -> None:
    net, x, y = known()
    model = OneDict(net)
    batches = [({"offset": torch.zeros(len(p), 1), "deep": {"x": p}}, label) for p, label in cut(x, y)]
    assert tried(tmp_path, model, batches).metric == pytest.approx(0.8, **CLOSE)


def test_keys_of_a_flat_batch_may_be_one_argument(tmp_path: Path) -> None:
    class Flat(Taking):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.inner(batch["signal"]) + batch["offset"]

    net, x, y = known()
    batches = [{"signal": p, "offset": torch.zeros(len(p), 1), "label": label} for p, label in cut(x, y)]
    found = tried(tmp_path, Flat(net), batches)
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert found.understanding.targets == ("label",)


@pytest.mark.parametrize("target", ["labels", "label", "target", "y"])
def test_inputs_by_keyword_only(tmp_path: Path, target: str) -> None:
    net, x, y = known()
    found = tried(tmp_path, Keywords(net), [{target: label, "x": p} for p, label in cut(x, y)])
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert (found.understanding.inputs, found.understanding.targets) == (("x",), (target,))


def test_keywords_of_a_pair(tmp_path: Path) -> None:
    net, x, y = known()
    batches = [({"x": p, "offset": torch.zeros(len(p), 1)}, label) for p, label in cut(x, y)]
    found = tried(tmp_path, Keywords(net), batches)
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert mean([found.file()(x=x, offset=torch.zeros(60, 1))[0].argmax(1) == y]) == pytest.approx(0.8, **CLOSE)


def test_image_and_mask_by_name(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, 8, 8, generator=generator)
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1)
    y = net(x).argmax(1)
    y[:10] = (y[:10] + 1) % 4
    found = tried(tmp_path, net, [{"image": p, "mask": label} for p, label in cut(x, y)])
    assert found.metric == pytest.approx(0.75, **CLOSE)
    assert mean([found.file()(x)[0].argmax(1) == y]) == pytest.approx(0.75, **CLOSE)
    assert found.understanding.targets == ("mask",)
    assert found.understanding.judging.task == "segmentation"


def test_names_that_are_not_used_are_told(tmp_path: Path) -> None:
    net, x, y = known()
    batches = [{"index": torch.arange(len(p)), "image": p, "label": label} for p, label in cut(x, y)]
    found = tried(tmp_path, net, batches)
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert found.understanding.unused == ("index",)


def test_input_target_and_index_are_asked_back_and_both_answers_are_right(tmp_path: Path) -> None:
    net, x, y = known()
    batches = cut(x, y, torch.arange(60))
    said = refused(net, batches)
    assert "--labels 1" in said
    found = tried(tmp_path, net, batches, labels=("1",))
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert found.understanding.unused == ("2",)


def test_index_input_and_target(tmp_path: Path) -> None:
    net, x, y = known()
    batches = cut(torch.arange(60), x, y)
    assert "--labels" in refused(net, batches)


def test_labels_that_do_not_exist_are_refused() -> None:
    net, x, y = known()
    assert "it has 0, 1" in refused(net, cut(x, y), labels=("5",))
    assert "it has x, y" in refused(Keywords(net), [{"x": p, "y": label} for p, label in cut(x, y)], labels=("z",))


def test_two_inputs_and_a_target_in_one_flat_batch(tmp_path: Path) -> None:
    class Two(Taking):
        def forward(self, x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + offset

    net, x, y = known()
    batches = cut(x, torch.zeros(60, 1), y)
    found = tried(tmp_path, Two(net), batches)
    assert found.metric == pytest.approx(0.8, **CLOSE)


def test_frames_and_series_of_pandas(tmp_path: Path) -> None:
    net, x, y = known()
    frame = pd.DataFrame(x.double().numpy(), columns=list("abcd"))
    for index, target in enumerate((pd.Series(y.numpy()), pd.Series(y.numpy(), index=range(100, 160)))):
        found = tried(tmp_path / str(index), net, (frame, target))
        assert found.metric == pytest.approx(0.8, **CLOSE)
        assert found.numbers["samples"] == 60


def test_single_samples_in_a_list(tmp_path: Path) -> None:
    net, x, y = known()
    forms: tuple[Callable[[torch.Tensor], Any], ...] = (int, lambda value: value, lambda value: value.numpy())
    for index, label in enumerate(forms):
        samples = [(p, label(value)) for p, value in zip(x, y, strict=True)]
        found = tried(tmp_path / str(index), net, samples)
        assert found.metric == pytest.approx(0.8, **CLOSE)
        assert found.numbers["samples"] == 60


def test_single_samples_as_dicts_in_a_list(tmp_path: Path) -> None:
    net, x, y = known()
    samples = [{"x": p, "label": int(value)} for p, value in zip(x, y, strict=True)]
    found = tried(tmp_path, Keywords(net), samples)
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert found.numbers["samples"] == 60


def test_single_samples_with_masks_in_a_list_are_refused() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    assert "single samples" in refused(net, list(zip(x, y, strict=True)))


@pytest.mark.parametrize("labels", [5, 4])
def test_single_samples_with_several_labels_in_a_list_are_refused(labels: int) -> None:
    net = nn.Linear(4, labels)
    samples = [(torch.randn(4), torch.randn(labels)) for _ in range(40)]
    assert "DataLoader(data, batch_size=64)" in refused(net, samples)


@pytest.mark.parametrize("size", [1, 5])
def test_a_list_of_images_is_one_argument(tmp_path: Path, size: int) -> None:
    x = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = ListOfImages()
    y = model(list(x)).argmax(1)
    y[:5] = (y[:5] + 1) % 3
    batches = [(list(p), label) for p, label in cut(x, y, size=size)]
    found = tried(tmp_path, model, batches)
    assert found.metric == pytest.approx(0.75, **CLOSE)
    assert found.numbers["samples"] == 20


def test_dataclasses_come_out(tmp_path: Path) -> None:
    net, x, y = known()
    found = tried(tmp_path, Answer(net), (x, y))
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert mean([found.file()(x)[0].argmax(1) == y]) == pytest.approx(0.8, **CLOSE)
    assert found.understanding.judging.output == "scores"


def test_dataclasses_go_in(tmp_path: Path) -> None:
    net, x, y = known()
    found = tried(tmp_path, net, [Example(p, label) for p, label in cut(x, y)])
    assert found.metric == pytest.approx(0.8, **CLOSE)


class Boxes(Dataset):
    """Pictures with the boxes of their bright squares: some have none, some have two."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pictures, self.boxes = [], []
        for _ in range(30):
            picture = 0.05 * torch.rand(1, 16, 16, generator=generator)
            boxes = []
            for _ in range(int(torch.randint(1, 3, (1,), generator=generator))):
                x, y = (int(v) for v in torch.randint(0, 12, (2,), generator=generator))
                picture[0, y : y + 4, x : x + 4] = 1
                boxes.append([x, y, x + 4, y + 4])
            self.pictures.append(picture)
            self.boxes.append(torch.tensor(boxes, dtype=torch.float32))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        boxes = self.boxes[index]
        return self.pictures[index], {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)}


def together(items: list[Any]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    return torch.stack([picture for picture, _ in items]), [target for _, target in items]


class Brightness(nn.Module):
    """Sums every window of four by four."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = nn.Conv2d(1, 1, 4, bias=False)
        nn.init.constant_(self.sums.weight, 1 / 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sums(x)[:, 0]


def windows(outputs: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """The two brightest windows as boxes."""
    found = []
    for scores in outputs:
        best = scores.flatten().topk(2)
        y, x = best.indices // scores.shape[1], best.indices % scores.shape[1]
        boxes = torch.stack([x, y, x + 4, y + 4], 1).float()
        found.append({"boxes": boxes, "scores": best.values, "labels": torch.zeros(2, dtype=torch.int64)})
    return found


def covered(outputs: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Share of each picture's boxes that one of the windows found covers exactly."""
    shares = []
    for found, target in zip(windows(outputs), targets, strict=True):
        hits = [(found["boxes"] == box).all(1).any() for box in target["boxes"]]
        shares.append(torch.stack(hits).double().mean())
    return torch.stack(shares)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_detection_targets_with_a_metric_of_ones_own(tmp_path: Path, size: int) -> None:
    model, loader = Brightness(), DataLoader(Boxes(), batch_size=size, collate_fn=together)
    found = tried(tmp_path, model, loader, metric=covered)
    right = mean(covered(model(x), targets) for x, targets in loader)
    assert 0.4 < right < 1
    assert found.metric == pytest.approx(right, **CLOSE)
    assert mean(covered(found.file()(x)[0], targets) for x, targets in loader) == pytest.approx(right, **CLOSE)


def test_detection_through_mean_average_precision(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    from torchmetrics.detection import MeanAveragePrecision

    model, loader = Brightness(), DataLoader(Boxes(), batch_size=7, collate_fn=together)
    whole = MeanAveragePrecision(backend="faster_coco_eval")
    for x, targets in loader:
        whole.update(windows(model(x)), targets)
    right = float(whole.compute()["map"])
    assert 0.2 < right < 1
    for index, metric in enumerate(("map", None, MeanAveragePrecision(backend="faster_coco_eval"))):
        found = tried(tmp_path / str(index), model, loader, metric=metric, postprocess=windows)
        assert found.metric == pytest.approx(right, **CLOSE)
        assert found.understanding.judging.task == "detection"


def test_detection_without_boxes_among_the_outputs_asks_for_a_postprocess() -> None:
    loader = DataLoader(Boxes(), batch_size=7, collate_fn=together)
    wanted = "postprocess" if importlib.util.find_spec("torchvision") else "quanttaas-jupyter[detection]"
    assert wanted in refused(Brightness(), loader)


def test_targets_of_text(tmp_path: Path) -> None:
    net, x, y = known()
    words = ["one", "two", "three"]

    def spelt(outputs: torch.Tensor, targets: list[str]) -> list[float]:
        return [float(words[int(row)] == text) for row, text in zip(outputs.argmax(1), targets, strict=True)]

    batches = [(p, [words[int(label)] for label in labels]) for p, labels in cut(x, y)]
    assert tried(tmp_path, net, batches, metric=spelt).metric == pytest.approx(0.8, **CLOSE)


def test_sets_of_answers(tmp_path: Path) -> None:
    net, x, y = known()

    def among(outputs: torch.Tensor, targets: Any) -> list[float]:
        return [float(int(row) in set(map(int, t))) for row, t in zip(outputs.argmax(1), targets, strict=True)]

    batches = [(p, [{int(label), 7} for label in labels]) for p, labels in cut(x, y)]
    assert tried(tmp_path, net, batches, metric=among).metric == pytest.approx(0.8, **CLOSE)


def test_targets_in_a_dict_go_to_the_metric_whole(tmp_path: Path) -> None:
    net, x, y = known()

    def both(outputs: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        return (outputs.argmax(1) == targets["kind"]) & (targets["weight"] > 0)

    weight = torch.ones(60)
    weight[50:] = 0
    batches = [(p, {"kind": label, "weight": w}) for p, label, w in cut(x, y, weight)]
    right = mean([both(net(x), {"kind": y, "weight": weight})])
    assert tried(tmp_path, net, batches, metric=both).metric == pytest.approx(right, **CLOSE)
    assert "--labels" in refused(net, batches)


def test_a_batch_nested_otherwise_later_is_refused(tmp_path: Path) -> None:
    net, x, y = known()
    batches: list[Any] = cut(x, y)
    batches[-1] = ((batches[-1][0], batches[-1][0]), batches[-1][1])
    with pytest.raises(DataError, match="nested"):
        tried(tmp_path, net, batches)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (lambda x, y: "file.csv", "DataLoader"),
        (lambda x, y: {"x": x}, "DataLoader"),
        (lambda x, y: [], "empty"),
        (lambda x, y: (x, y[:30]), "different numbers"),
        (lambda x, y: [(["a", "b"], y[:2])], "tokenise"),
        (lambda x, y: np.array(["a", "b"]), "tokenise"),
        (lambda x, y: 5, "DataLoader"),
    ],
)
def test_data_of_no_use_is_refused(data: Callable[..., Any], word: str) -> None:
    net, x, y = known()
    assert word in refused(net, data(x, y))


def test_rows_of_python_lists_are_stacked() -> None:
    net, x, y = known()
    rows = [{"x": row.tolist(), "label": int(label)} for row, label in zip(x, y, strict=True)]

    class Rows(Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return rows[index]

    for data in (rows, Rows()):
        assert measured(Keywords(net), data)[0] == pytest.approx(0.8, **CLOSE)
    rows[7] = {**rows[7], "x": [1.0, 2.0]}
    assert "pad them to one length" in refused(Keywords(net), rows)


def test_labels_in_a_python_list_beside_an_array_are_labels() -> None:
    net, x, y = known()
    assert measured(net, (x, y.tolist()))[0] == pytest.approx(0.8, **CLOSE)


def test_inputs_and_labels_in_a_list_are_told_from_batches() -> None:
    net, x, y = known()
    assert "give a tuple of tensors (inputs, targets)" in refused(net, [x, y])
    assert "give a tuple of tensors (inputs, targets)" in refused(net, [x, y.tolist()])


def test_one_of_several_targets_in_a_dict_may_be_named() -> None:
    net, x, y = known()
    batches = [(a, {"kind": b, "weight": torch.ones(len(b))}) for a, b in cut(x, y)]
    assert "--labels kind" in refused(net, batches)
    assert measured(net, batches, labels=["kind"])[0] == pytest.approx(0.8, **CLOSE)
