"""Where samples lie in a batch, and whether a batch may be cut; every right number is computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.errors import QuantTaaSError
from tests.situations.trying import CLOSE, cut, fitted, looked, mean, measured, refused, tried


class TimeFirst(nn.Module):
    """An LSTM as PyTorch makes it: (time, batch, features)."""

    def __init__(self, every: bool) -> None:
        super().__init__()
        self.lstm, self.head, self.every = nn.LSTM(3, 16), nn.Linear(16, 2), every

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.head(self.lstm(x)[0])
        return out if self.every else out[-1]


def sequences(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (12, n, 3) and whether their first feature sums to more than zero (n)."""
    x = torch.randn(12, count, 3, generator=torch.Generator().manual_seed(seed))
    return x, (x[..., 0].sum(0) > 0).long()


def time_first(x: torch.Tensor, y: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(size, 1), y.split(size, y.ndim - 1), strict=True))


@pytest.mark.parametrize("size", [8, 10, 12])
def test_an_lstm_with_time_first_has_its_samples_in_the_second_dimension(tmp_path: Path, size: int) -> None:
    x, y = sequences(90)
    torch.manual_seed(0)
    net = TimeFirst(every=False)
    fitted(net, lambda batch: nn.functional.cross_entropy(net(batch[0]), batch[1]), time_first(x, y, 16), 25)
    x, y = sequences(100, 7)
    batches = time_first(x, y, size)
    found = tried(tmp_path, net, batches)
    right = mean(net(part).argmax(1) == label for part, label in batches)
    assert 0.75 < right < 1
    assert found.metric == pytest.approx(right, **CLOSE)
    assert found.numbers["samples"] == 100
    assert mean([found.file()(x)[0].argmax(1) == y]) == pytest.approx(right, **CLOSE)
    assert found.understanding.batch_dim == 1


def test_labels_of_every_step_follow_the_layout_of_the_output(tmp_path: Path) -> None:
    x, _ = sequences(60)
    y = (x[..., 0].cumsum(0) > 0).long()
    torch.manual_seed(0)
    net = TimeFirst(every=True)
    batches = time_first(x, y, 12)
    found = tried(tmp_path, net, batches, metric="accuracy,f1")
    assert found.metric == pytest.approx(mean(net(p).argmax(-1) == label for p, label in batches), **CLOSE)
    assert found.numbers["samples"] == 60


def test_a_function_of_everything_gets_the_samples_of_time_first_outputs_joined(tmp_path: Path) -> None:
    x, _ = sequences(150)
    y = (x[..., 0].cumsum(0) > 0).long()
    torch.manual_seed(0)
    net = TimeFirst(every=True)

    def last_step(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        assert outputs.shape[:2] == targets.shape
        return float((outputs[-1].argmax(-1) == targets[-1]).double().mean())

    found = tried(tmp_path, net, time_first(x, y, 12), metric=last_step)
    assert found.metric == pytest.approx(mean([net(x)[-1].argmax(-1) == y[-1]]), **CLOSE)


def test_a_tuple_of_time_first_arrays_is_not_cut_along_time() -> None:
    x = torch.randn(150, 20, 3)
    y = (x[..., 0].cumsum(0) > 0).long()
    said = refused(TimeFirst(every=True), (x, y))
    assert "DataLoader" in said


def test_the_dimension_of_samples_may_be_said(tmp_path: Path) -> None:
    x, y = sequences(60)
    torch.manual_seed(0)
    net = TimeFirst(every=False)
    batches = time_first(x, y, 12)
    found = tried(tmp_path, net, batches, batch_dim=1)
    assert found.metric == pytest.approx(mean(net(p).argmax(1) == label for p, label in batches), **CLOSE)


class PackAndPad(nn.Module):
    """Packs sequences and pads them again, to the longest of their batch."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.rnn, self.head = layer(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(padded.max(1).values)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_sequences_that_are_packed_and_padded_are_judged_in_their_batches(tmp_path: Path, layer: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 9, 3, generator=generator)
    lengths = torch.randint(2, 10, (96,), generator=generator)
    y = torch.stack([row[:length, 0].max() > 1 for row, length in zip(x, lengths, strict=True)]).long()
    torch.manual_seed(0)
    net = PackAndPad(layer)
    batches = [((p[:, : int(n.max())], n), label) for p, n, label in cut(x, lengths, y, size=8)]
    fitted(net, lambda batch: nn.functional.cross_entropy(net(*batch[0]), batch[1]), batches, 5)
    right = mean(net(*inputs).argmax(1) == label for inputs, label in batches)
    assert 0.5 < right < 1
    found = tried(tmp_path, net, batches)
    assert found.metric == pytest.approx(right, **CLOSE)
    file = found.file()
    assert mean(file(*inputs)[0].argmax(1) == label for inputs, label in batches) == pytest.approx(right, **CLOSE)


class Retrieval(nn.Module):
    """Every picture is compared with every text of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures, self.texts = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)

    def forward(self, pictures: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return self.pictures(pictures) @ self.texts(texts).T


def test_retrieval_within_a_batch_is_judged_in_the_batches_that_come(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(80, 6, generator=generator)
    texts = pictures + 0.8 * torch.randn(80, 6, generator=generator)
    net = Retrieval()
    with torch.no_grad():
        net.texts.weight.copy_(net.pictures.weight)
    batches = [((p, t), torch.arange(len(p))) for p, t in zip(pictures.split(8), texts.split(8), strict=True)]
    found = tried(tmp_path, net, batches)
    right = mean(net(*inputs).argmax(1) == label for inputs, label in batches)
    all_at_once = mean([net(pictures, texts).argmax(1) == torch.arange(80)])
    assert right > all_at_once + 0.05
    assert found.metric == pytest.approx(right, **CLOSE)
    file = found.file()
    assert mean(file(*inputs)[0].argmax(1) == label for inputs, label in batches) == pytest.approx(right, **CLOSE)
    assert not found.understanding.judging.is_cut
    assert any("judged whole" in note for note in found.understanding.notes)


def test_retrieval_with_a_smaller_last_batch(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(45, 6, generator=generator)
    net = Retrieval()
    with torch.no_grad():
        net.texts.weight.copy_(net.pictures.weight)
    texts = pictures + 0.8 * torch.randn(45, 6, generator=generator)
    batches = [((p, t), torch.arange(len(p))) for p, t in zip(pictures.split(8), texts.split(8), strict=True)]
    found = tried(tmp_path, net, batches)
    right = mean(net(*inputs).argmax(1) == label for inputs, label in batches)
    assert found.metric == pytest.approx(right, **CLOSE)


def test_batchnorm_without_running_statistics_is_judged_in_the_batches_that_come(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, 8, 8, generator=generator)
    x += torch.randn(60, 1, 1, 1, generator=generator)
    y = torch.randint(0, 3, (60,), generator=generator)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
    )
    batches = cut(x, y, size=10)
    found = tried(tmp_path, net, batches)
    right = mean(net(part).argmax(1) == label for part, label in batches)
    assert found.metric == pytest.approx(right, **CLOSE)
    file = found.file()
    assert mean(file(part)[0].argmax(1) == label for part, label in batches) == pytest.approx(right, **CLOSE)


def test_lengths_that_differ_between_batches_are_kept(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    batches = []
    for length in (5, 9, 3, 9, 7):
        words = torch.randint(0, 9, (8, length), generator=generator)
        batches.append((words, torch.randint(0, 4, (8, length), generator=generator)))
    batches = [(words, torch.where(labels > 1, net(words).argmax(-1), labels)) for words, labels in batches]
    found = tried(tmp_path, net, batches)
    right = mean(net(words).argmax(-1) == labels for words, labels in batches)
    assert found.metric == pytest.approx(right, **CLOSE)
    file = found.file()
    assert mean(file(words)[0].argmax(-1) == labels for words, labels in batches) == pytest.approx(right, **CLOSE)


class CountsRows(nn.Module):
    """Uses ``len(x)``, which tracing takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.reshape(len(x), -1))


def test_the_length_of_a_batch_in_forward_does_not_freeze_the_file(tmp_path: Path) -> None:
    x = torch.randn(70, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = CountsRows()
    y = net(x).argmax(1)
    y[::5] = 0
    found = tried(tmp_path, net, (x, y))
    right = mean([net(x).argmax(1) == y])
    assert found.metric == pytest.approx(right, **CLOSE)
    file = found.file()
    for size in (1, 2, 70):
        assert mean(file(part)[0].argmax(1) == label for part, label in cut(x, y, size=size)) == pytest.approx(
            right, **CLOSE
        )


def test_a_model_for_one_size_of_batch_is_run_one_by_one_and_says_so(tmp_path: Path) -> None:
    class PerSample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.layer(x[int(i)]) for i in range(int(x.shape[0]))])

    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    net = PerSample()
    y = net(x).argmax(1)
    y[::4] = 1
    found = tried(tmp_path, net, (x, y))
    assert found.metric == pytest.approx(mean([net(x).argmax(1) == y]), **CLOSE)


class Crops(nn.Module):
    """Convolutions and a mean: takes pictures of every size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


def test_calibration_on_crops_gives_a_file_for_the_sizes_that_are_judged(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(32, 3, 24, 24, generator=generator)
    x = torch.rand(40, 3, 32, 32, generator=generator)
    net = Crops()
    y = net(x).argmax(1)
    y[::3] = 2
    found = tried(tmp_path, net, (x, y), {"quantize": ["none", "int8"]}, calibration=(crops, torch.zeros(32).long()))
    right = mean([net(x).argmax(1) == y])
    assert found.metric == pytest.approx(right, **CLOSE)
    assert mean([found.file()(x)[0].argmax(1) == y]) == pytest.approx(right, **CLOSE)
    assert found.of("int8")["metric"] is not None


@pytest.mark.parametrize("shape", [(4, 1), (4, 3)])
def test_a_squeeze_that_drops_the_samples_is_refused(shape: tuple[int, int]) -> None:
    class Squeezes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(*shape)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).squeeze()

    y = torch.randn(65) if shape[1] == 1 else torch.arange(65) % 3
    said = refused(Squeezes(), (torch.randn(65, 4), y))
    assert "squeeze(-1)" in said


def test_always_on_dropout_is_refused() -> None:
    class Monte(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.layer(x), 0.5, training=True)

    said = refused(Monte(), (torch.randn(40, 4), torch.arange(40) % 3))
    assert "dropout that is always on" in said


def test_a_model_that_keeps_state_is_refused() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.last: torch.Tensor
            self.register_buffer("last", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.layer(x) + self.last
            self.last = out.detach().mean(0)
            return out

    model = Remembers()
    said = refused(model, (torch.randn(40, 4), torch.arange(40) % 3))
    assert "state" in said
    assert bool((model.last == 0).all())


def test_one_sample_a_batch_is_enough(tmp_path: Path) -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Linear(4, 3)
    y = net(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    found = tried(tmp_path, net, cut(x, y, size=1))
    assert found.metric == pytest.approx(0.8, **CLOSE)
    assert found.numbers["samples"] == 20


def test_pictures_of_several_sizes_one_at_a_time(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    net = Crops()
    batches: list[Any] = []
    for size in (16, 20, 24, 18, 30, 16):
        x = torch.rand(1, 3, size, size + 2, generator=generator)
        batches.append((x, net(x).argmax(1)))
    batches[0] = (batches[0][0], (batches[0][1] + 1) % 3)
    found = tried(tmp_path, net, batches)
    assert found.metric == pytest.approx(5 / 6, **CLOSE)
    file = found.file()
    assert mean(file(x)[0].argmax(1) == y for x, y in batches) == pytest.approx(5 / 6, **CLOSE)


def test_inputs_of_float64_are_cast_and_it_is_said(tmp_path: Path) -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = nn.Linear(4, 3)
    y = net(x.float()).argmax(1)
    y[:6] = (y[:6] + 1) % 3
    found = tried(tmp_path, net, (x.numpy(), y.numpy()))
    assert found.metric == pytest.approx(0.9, **CLOSE)
    assert any("float64" in note for note in found.understanding.notes)


def test_inputs_that_do_not_fit_are_refused_with_their_shapes() -> None:
    said = refused(nn.Linear(4, 3), (torch.randn(40, 5), torch.arange(40) % 3))
    assert "(8, 5)" in said


@pytest.mark.parametrize("dim", [2, 5, -1])
def test_a_dimension_of_samples_that_does_not_exist_is_refused(dim: int) -> None:
    with pytest.raises(QuantTaaSError):
        looked(nn.Linear(4, 3), (torch.randn(40, 4), torch.arange(40) % 3), batch_dim=dim)


def test_time_first_batches_of_one_have_their_samples_in_the_second_dimension() -> None:
    x, _ = sequences(96)
    torch.manual_seed(0)
    net = TimeFirst(every=False)
    y = net(x).argmax(1)
    y[::4] = 1 - y[::4]
    number, prepared = measured(net, time_first(x, y, 1))
    assert number == pytest.approx(mean([net(x).argmax(1) == y]), **CLOSE)
    assert prepared.inspection.understanding.batch_dim == 1
    ragged = [(part[: 8 + at % 4], label) for at, (part, label) in enumerate(time_first(x, y, 1))]
    right = mean([torch.cat([net(part).argmax(1) for part, _ in ragged]) == y])
    assert measured(net, ragged)[0] == pytest.approx(right, **CLOSE)


@pytest.mark.parametrize("at", [3, 190])
def test_inputs_of_nan_are_refused_before_the_study(at: int) -> None:
    x = torch.randn(200, 4)
    x[at] = torch.nan
    with pytest.raises(QuantTaaSError, match="the inputs of --data hold NaN"):
        measured(nn.Linear(4, 3), (x, torch.arange(200) % 3))


def test_a_later_batch_with_other_features_is_refused_before_the_study() -> None:
    batches = [(torch.randn(50, width), torch.arange(50) % 3) for width in (4, 4, 4, 5)]
    with pytest.raises(QuantTaaSError, match=r"do not fit the model: .*\(50, 5\)"):
        measured(nn.Linear(4, 3), batches)


def test_batches_with_time_first_are_not_drawn_from_along_time() -> None:
    x, _ = sequences(96)
    y = (x[..., 0].cumsum(0) > 0).long()
    batches = time_first(x, y, 12)
    assert "larger max_samples" in refused(TimeFirst(every=True), batches, recipe={"max_samples": 20})
