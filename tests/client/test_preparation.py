"""What is found out about a study before it is sent: where classes lie, what is refused, what is noted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.client.inspection import Asked
from quanttaas_jupyter.client.preparation import Prepared, prepare
from quanttaas_jupyter.client.submission import ignore_progress, read, send
from quanttaas_jupyter.core.errors import MetricError, ModelError
from quanttaas_jupyter.store.local import LocalStore


class Said(nn.Module):
    """Says the classes that it is given, as scores along a dimension."""

    def __init__(self, classes: int, class_dim: int = 1) -> None:
        super().__init__()
        self.count, self.class_dim, self.scale = classes, class_dim, nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.one_hot(x, self.count).float().movedim(-1, self.class_dim)


class Linear(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def prepared(model: Any, data: Any, recipe: Any = None, **given: Any) -> Prepared:
    asked = Asked(**{key: given.pop(key) for key in list(given) if key in Asked.__dataclass_fields__})
    options = {"calibration": None, "train": None, "asked": asked, "example_inputs": None, "name": None, **given}
    return prepare(model, data, {"prune": [0], "quantize": ["none"], **(recipe or {})}, **options)


def class_dim_of(study: Prepared) -> int | None:
    return study.inspection.understanding.judging.class_dim


def notes(study: Prepared) -> list[str]:
    return read(study, ignore_progress)[1]


@pytest.mark.parametrize("class_dim", [1, 2])
@pytest.mark.parametrize("places", [5, 7])
def test_the_dimension_of_classes_is_found_from_labels(class_dim: int, places: int) -> None:
    words = torch.randint(0, 5, (40, places), generator=torch.Generator().manual_seed(0))
    study = prepared(Said(5, class_dim), (words, words))
    assert class_dim_of(study) == class_dim
    recorded = study.draft("local", "tester").understanding
    assert recorded is not None
    assert recorded.judging.class_dim == class_dim
    told = [note for note in notes(study) if f"classes in dimension {class_dim}" in note]
    assert len(told) == (places == 5)


@pytest.mark.parametrize(
    ("model", "targets", "found"),
    [
        (Linear(3), torch.randint(0, 3, (40,)), 1),
        (Linear(1), torch.randint(0, 2, (40, 1)), None),
        (Linear(2), torch.randint(0, 2, (40, 2)), None),
        (Linear(2), torch.randn(40, 2), None),
        (Linear(2), None, 1),
    ],
)
def test_only_scores_of_classes_have_a_dimension_of_classes(model: Any, targets: Any, found: int | None) -> None:
    data = (torch.randn(40, 4),) if targets is None else (torch.randn(40, 4), targets)
    study = prepared(model, data, metric="agreement")
    assert class_dim_of(study) == found
    assert any("taken for scores" in note for note in study.notes) == (targets is None)
    has_values = study.inspection.understanding.judging.scores == "values"
    assert any("R2 against" in note for note in notes(study)) == has_values


def test_classes_are_found_from_the_data_where_example_inputs_are_others() -> None:
    words = torch.randint(0, 5, (40, 7))
    assert class_dim_of(prepared(Said(5, 2), (words, words), example_inputs=words[:3, :5])) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_a_model_of_another_precision_is_refused_with_the_way_out(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2).to(dtype))
    with pytest.raises(ModelError, match=r"parameter 1.weight is \w+, and compression starts from float32; give model"):
        prepared(model, (torch.randn(40, 4), torch.randn(40, 2)))


def test_a_metric_with_one_value_a_class_is_refused_before_anything_is_sent() -> None:
    def recalls(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.ones(3)

    with pytest.raises(MetricError, match=r"one number, or one a sample \(got 3 for 40\)"):
        prepared(Linear(3), (torch.randn(40, 4), torch.randint(0, 3, (40,))), metric=recalls)


def test_a_cut_stream_and_batches_timed_in_another_size_are_noted() -> None:
    graphs = [((torch.randn(6, 4), torch.zeros(2, 9)), torch.randn(6, 2)) for _ in range(10)]

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            return self.layer(nodes) + edges.sum()

    study = prepared(Graph(), iter(graphs), {"latency": {"batch": 32}, "max_samples": 30}, calibration=graphs)
    found = notes(study)
    assert any("the first 30 samples were taken" in note for note in found)
    assert any("batches of 6 are timed instead of 32" in note for note in found)
    assert not any("timed" in note for note in notes(prepared(Graph(), graphs, {"latency": {"batch": 6}})))


def test_the_share_that_was_sent_rises_to_the_whole(tmp_path: Path) -> None:
    reported: list[float] = []

    def report(message: str, sent: float | None = None) -> None:
        if sent is not None:
            reported.append(sent)

    study = prepared(Linear(3), (torch.randn(4000, 4), torch.randint(0, 3, (4000,))))
    store, draft = LocalStore(tmp_path), study.draft("local", "tester")
    for _ in range(2):
        reported.clear()
        send(study, store, draft, *read(study, ignore_progress), report)
        # What the store has already counts as sent.
        assert reported == sorted(reported)
        assert reported[0] == 0
        assert reported[-1] == 1
