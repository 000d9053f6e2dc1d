"""One study from the call to the file, on a real engine."""

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import quanttaas_jupyter as qt
from quanttaas_jupyter.store import open_store
from quanttaas_jupyter.study_store import deletion, records
from tests.measured import number
from tests.networks import Digits, Mlp, TwoHeads, regression_data

METRICS = [
    *("metric", "metric_low", "metric_high", "drop", "drop_low", "drop_high", "samples", "guide_drop"),
    *("size_bytes", "size_ratio", "size_gzip_bytes", "latency_ms", "latency_p90_ms", "speedup", "gpu_memory_bytes"),
    *("params", "pruned_share", "macs", "agreement", "sqnr_db", "export_error"),
    *("quantized_layers", "quantizable_layers", "seconds"),
]
UNMEASURED = {"gpu_memory_bytes", "sqnr_db", "guide_drop"}
RECIPE = {
    "prune": [0, 0.5, {"method": "unstructured", "amount": 0.6}],
    "recover": {"method": "distill", "epochs": 5},
    "quantize": ["none", "fp16", "int8", "int8-dynamic"],
    "latency": {"threads": 1},
}


@pytest.fixture(scope="module")
def finished(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> qt.Study:
    from tests.conftest import end_engines

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTTAAS_STORE", str(home / "store"))
        patch.setenv("QUANTTAAS_RUNTIME_DIR", str(home / "run"))
        patch.setenv("QUANTTAAS_SLOTS", "2")
        study = qt.compress(digits.model, digits.test, recipe=RECIPE, train=digits.train, name="digits").wait(240)
        end_engines(home)
    return study


def test_every_trial_is_measured_with_every_metric(finished: qt.Study) -> None:
    assert finished.status == "finished"
    assert [trial.name for trial in finished.trials][:2] == ["baseline", "fp16"]
    assert len(finished) == 12
    for trial in finished:
        assert trial.status == "finished", trial
        assert list(trial.metrics) == METRICS
        missing = {name for name, value in trial.metrics.items() if value is None} - UNMEASURED
        assert not missing, trial.name
        assert all(value is None or math.isfinite(value) for value in trial.metrics.values())
        assert number(trial, "metric_low") <= number(trial, "metric") <= number(trial, "metric_high")
        assert trial.metrics["samples"] == 599


def test_structured_pruning_and_int8_shrink_the_file_and_unstructured_does_not(finished: qt.Study) -> None:
    ratio = {trial.name: number(trial, "size_ratio") for trial in finished}
    assert ratio["baseline"] == 1
    assert ratio["prune50"] < 0.6
    assert ratio["int8"] < 0.4
    assert ratio["prune50-int8"] < 0.28
    assert ratio["unstructured60"] == pytest.approx(1, abs=0.02)
    sparse, dense = finished["unstructured60"], finished["baseline"]
    assert number(sparse, "size_gzip_bytes") < 0.7 * number(dense, "size_gzip_bytes")
    assert number(sparse, "pruned_share") == pytest.approx(0.6, abs=0.02)
    assert any("no smaller file" in warning for warning in finished["unstructured60"].warnings)


def test_the_exported_file_gives_the_measured_accuracy_by_hand(
    finished: qt.Study, digits: Digits, tmp_path: Path
) -> None:
    x, y = digits.test.dataset.tensors  # type: ignore[attr-defined]
    for name in ("baseline", "prune50-int8", "fp16"):
        trial = finished[name]
        path = trial.export(tmp_path)
        assert path.stat().st_size == trial.metrics["size_bytes"]
        (scores,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
        assert float((scores.argmax(1) == y.numpy()).mean()) == pytest.approx(trial.metrics["metric"], abs=1e-6)


def test_a_loaded_trial_is_called_like_the_model(finished: qt.Study, digits: Digits) -> None:
    x = digits.test.dataset.tensors[0][:5]  # type: ignore[attr-defined]
    loaded = finished["baseline"].load()
    torch.testing.assert_close(loaded(x), digits.model(x), atol=1e-4, rtol=1e-4)
    assert loaded(x[:1]).shape == (1, 10)
    with pytest.raises(qt.QuantTaaSError, match="takes 1 inputs"):
        loaded(x, x)


def test_no_latency_was_measured_while_another_stage_ran(finished: qt.Study) -> None:
    events = list(records.read_events(open_store(finished.store), finished.id))
    spans = [(e["kind"], e["began"], e["began"] + e["seconds"]) for e in events if e["type"] == "stage_finished"]
    timings = [span for span in spans if span[0] == "latency"]
    assert len(timings) == 12
    for timing in timings:
        for span in spans:
            assert span is timing or span[2] <= timing[1] + 0.005 or span[1] >= timing[2] - 0.005


def test_the_frontier_the_best_the_frame_and_the_texts(finished: qt.Study) -> None:
    frontier = finished.frontier()
    sizes = [number(trial, "size_bytes") for trial in frontier]
    values = [number(trial, "metric") for trial in frontier]
    assert sizes == sorted(sizes)
    assert values == sorted(set(values))
    best = finished.best(max_drop=1.0)
    assert best is not None
    assert best.metrics["size_bytes"] == min(number(trial, "size_bytes") for trial in finished)
    assert finished.best(max_drop=-1) is None
    frame = finished.frame()
    assert len(frame) == 12
    assert set(METRICS) <= set(frame.columns)
    assert "prune50-int8" in repr(finished)
    assert "<table" in finished._repr_html_()
    assert finished.figure().axes
    with pytest.raises(qt.QuantTaaSError, match="did you mean 'prune50-int8'"):
        finished["prune50-int9"]


def test_a_finished_study_is_opened_by_id_by_uri_and_listed(finished: qt.Study) -> None:
    by_uri = qt.open(f"{finished.store}/studies/{finished.id}")
    assert by_uri.state.trials == finished.state.trials
    listed = qt.studies(finished.store)
    assert [info.id for info in listed] == [finished.id]
    assert (listed[0].status, listed[0].done, listed[0].total) == ("finished", 12, 12)
    assert finished.id in repr(listed)


def test_the_same_study_again_comes_from_the_cache(digits: Digits, home: Path) -> None:
    recipe = {"prune": [0], "quantize": ["none", "int8"]}
    first = qt.compress(digits.model, digits.test, recipe=recipe).wait(120)
    again = qt.compress(digits.model, digits.test, recipe=recipe).wait(60)
    events = list(records.read_events(open_store(), again.id))
    assert not [event for event in events if event["type"] in ("stage_started", "stage_finished")]
    assert [t.metrics for t in again] == [t.metrics for t in first]


def test_a_regressor_with_a_callable_metric_and_a_model_with_dicts(home: Path) -> None:
    torch.manual_seed(0)
    recipe = {"prune": [0], "quantize": ["none", "int8-dynamic"], "latency": {"threads": 1}}
    regressor = qt.compress(Mlp(), regression_data(), recipe=recipe)
    errors = qt.compress(
        Mlp(), regression_data(), recipe=recipe, metric=(lambda outputs, targets: (outputs - targets) ** 2, "min")
    )
    batch = {"image": torch.randn(64, 1, 8, 8), "table": torch.randn(64, 4)}
    two = qt.compress(TwoHeads(), [batch], recipe=recipe, metric="agreement", example_inputs=dict(batch))
    assert regressor.wait(120).state.metric["name"] == "r2"
    assert errors.wait(120)["int8-dynamic"].metrics["drop"] is not None
    outputs = two.wait(120)["int8-dynamic"].load()(**batch)
    assert set(outputs) == {"logits", "score"}
    assert outputs["score"].shape == (64, 1)
    assert np.isfinite(outputs["logits"].numpy()).all()
    assert two["baseline"].metrics["metric"] == 1.0


class Spectrum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).real


def test_a_model_that_onnx_cannot_express_fails_with_the_operator(home: Path) -> None:
    study = qt.compress(Spectrum(), (torch.randn(20, 3, 3),), recipe={"prune": [0]}, metric="agreement")
    with pytest.raises(qt.QuantTaaSError, match=r"ONNX cannot express this model: it has no operator aten\W+\w*eig"):
        study.wait(120)
    assert study["baseline"].error is not None
    assert study.state.preview["metric"] == 1.0
    with pytest.raises(qt.QuantTaaSError, match="has no file"):
        study["baseline"].load()


class Tagger(torch.nn.Module):
    """Scores for three classes at every place of a sequence; it always says class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Linear(4, 3)
        with torch.no_grad():
            self.scores.weight.mul_(0.01)
            self.scores.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(x).transpose(1, 2)


def test_what_fills_up_short_sequences_counts_neither_right_nor_wrong(home: Path) -> None:
    data = [(torch.randn(8, length, 4), torch.randint(1, 3, (8, length))) for length in (2, 9, 30, 4)]
    by_hand = torch.cat([(targets == 1).double().flatten() for _, targets in data]).mean()
    recipe = {"prune": [0], "quantize": ["none", "int8-dynamic"], "latency": {"threads": 1}}
    study = qt.compress(Tagger(), data, recipe=recipe, calibration=data).wait(120)
    assert study["baseline"].metrics["metric"] == pytest.approx(float(by_hand), abs=1e-9)
    assert study["int8-dynamic"].metrics["agreement"] == 1.0
    agreed = qt.compress(Tagger(), data, recipe=recipe, calibration=data, metric="agreement").wait(120)
    assert agreed["baseline"].metrics["metric"] == 1.0


class Sum(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(y)


def test_tuple_inputs_load_and_studies_in_two_stores_do_not_meet(home: Path, tmp_path: Path) -> None:
    x, y = torch.randn(60, 4), torch.randn(60, 4)
    recipe = {"prune": [0], "quantize": ["none", "int8"], "latency": {"threads": 1}}
    both = [
        qt.compress(Sum(), (x, y, torch.arange(60) % 3), recipe=recipe, store=tmp_path / name) for name in ("a", "b")
    ]
    for study in both:
        loaded = study.wait(120)["int8"].load()
        assert loaded(x[:2], y[:2]).shape == (2, 3)


def test_a_deleted_baseline_file_is_built_again(home: Path) -> None:
    x = torch.randn(60, 6)
    recipe = {"prune": [0], "quantize": ["none", "int8"], "latency": {"threads": 1}}
    first = qt.compress(Mlp(), (x, x.sum(1)), recipe=recipe).wait(120)
    artifact = first["baseline"].artifact
    assert artifact is not None
    open_store().delete(f"blobs/{artifact['blob']}")
    again = first.resume().wait(120)
    assert again["baseline"].load()(x[:3]).shape == (3,)
    assert again["int8"].status == "finished"


def test_a_study_deleted_while_it_waits_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quanttaas_jupyter.compute.clusters import local_engine

    monkeypatch.setattr(local_engine, "start", lambda: None)
    study = qt.compress(Mlp(), regression_data())
    # It is said before the study stands in the store, too.
    while study.state.message != "waiting for an engine" or not (home / "store" / "queue").exists():
        pass
    deletion.delete_study(open_store(), study.id)
    with pytest.raises(qt.QuantTaaSError, match="was deleted from the store"):
        study.wait(20)
