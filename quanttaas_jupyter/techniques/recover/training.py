"""Training of a model on the outputs of another: the loop that recoveries share.

After Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015). Class scores are matched by the
Kullback-Leibler divergence at a raised temperature. Other outputs are matched by the mean squared error in units of the
teacher's variance, or of a thousandth of its mean square if that is larger. Half of each batch is mixed with other
samples, and the teacher labels the mixtures: a small set of inputs then teaches like a larger one (Beyer et al.,
"Knowledge distillation: A good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ...bundle.batches import Batch, Batches, call
from ...bundle.outputs import flatten_outputs, main_output
from ...core.failures import StageError
from . import RecoverJob
from .batchnorm import NOTHING_TO_LEARN, layers_of, learnable

if TYPE_CHECKING:
    import torch

_TEMPERATURE = 2.0
"""Temperature of class scores, a usual choice for distillation; a higher one weighs unlikely classes more."""
_HELD_OUT = 0.1
"""Share of the samples that decides when to stop and is not trained on; chosen, not tuned."""
_BATCH = 64
"""Samples per training batch; chosen, not tuned."""
_SAMPLE_PASSES = 120_000
"""Default length of a training in samples, repetitions included; chosen, not tuned. Time grows in proportion."""
_FEWEST_EPOCHS, _MOST_EPOCHS = 2, 40
"""Bounds of the default number of epochs at an effort of 1; chosen, not tuned."""
_PATIENCE = 6
"""Epochs without a better held-out loss after which training stops, in its second half; chosen, not tuned."""
_PROBED = 2
"""Samples on which a model's training mode and memory format are tested."""
_FLATTEST = 1e-3
"""Share of an output's mean square below which its variance is not used as a unit; chosen, not tuned."""

Pass = Callable[[], AbstractContextManager[None]]
"""Returns a context for one forward and backward pass."""


def train(
    job: RecoverJob, what: str, peak: float, keeps_statistics: bool = False, forward_and_back: Pass = nullcontext
) -> dict[str, Any]:
    """Train with AdamW and a one-cycle schedule, stop early by held-out inputs, and keep the best weights.

    Args:
        job: The model, its teacher and the data.
        what: Name of the training in the log.
        peak: Peak learning rate if the job has none.
        keeps_statistics: Whether the running statistics of BatchNorm stay unchanged.
        forward_and_back: Returns a context that is entered around each forward and backward pass.

    Returns:
        ``epochs``, ``best_epoch``, ``losses`` (mean of each epoch) and ``held_out_loss``.

    Raises:
        StageError: The loss is not finite, or there are no floating-point outputs to learn from.
    """
    import torch

    torch.manual_seed(job.seed)
    seen, held_out = job.data.split(_HELD_OUT, limit=2_000, seed=job.seed)
    if not seen.batches:
        seen = held_out
    mode = _Mode(job, seen.head(_PROBED), keeps_statistics)
    seen = mode.usable(seen.rebatched(_BATCH))
    layout = fast_layout(job.model, job.teacher, seen.head(_PROBED))
    for model in (job.model, job.teacher):
        _move(model, layout, training_device())
    lesson = _Lesson(job, seen, layout, forward_and_back)
    exam = _Lesson(job, held_out.rebatched(256), layout, forward_and_back)
    epochs = job.epochs or default_epochs(seen.samples, job.effort)

    parameters = [p for p in job.model.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    peak = job.lr or peak
    optimizer = torch.optim.AdamW(parameters, lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=epochs * len(lesson.batches), pct_start=0.2
    )
    best_loss, best_weights, best_epoch = exam.loss(job.model), copy.deepcopy(job.model.state_dict()), 0
    losses: list[float] = []
    epoch = 0
    for epoch in range(1, epochs + 1):
        mode.enter(job.model)
        losses.append(lesson.teach(job.model, optimizer, schedule))
        held = exam.loss(job.model)
        job.report(f"{what}, epoch {epoch} of {epochs}, loss {losses[-1]:.3f}, held-out {held:.3f}")
        if held < best_loss:
            best_loss, best_weights, best_epoch = held, copy.deepcopy(job.model.state_dict()), epoch
        elif epoch - best_epoch >= _PATIENCE and epoch > epochs // 2:
            break
    job.model.load_state_dict(best_weights)
    for parameter in parameters:
        parameter.grad = None
    for model in (job.model, job.teacher):
        _move(model, torch.contiguous_format, "cpu").eval()
    return {"epochs": epoch, "best_epoch": best_epoch, "losses": losses, "held_out_loss": best_loss}


def default_epochs(samples: int, effort: float) -> int:
    """Return the default number of epochs for a data set of this size; smaller data sets get more, from 2 to 40."""
    return round(effort * max(_FEWEST_EPOCHS, min(_MOST_EPOCHS, _SAMPLE_PASSES / max(1, samples))))


def training_device() -> str:
    """Return ``cuda`` if this process has a GPU, otherwise ``cpu``; a trained model always returns to the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_layout(student: torch.nn.Module, teacher: torch.nn.Module, data: Batches) -> torch.memory_format:
    """Return the memory format for training: channels last for 2-D convolutions, a third faster on CPUs, if it works.

    A model that takes views of its activations fails with channels last, so a few samples are tried first.
    """
    import torch

    models = (student, teacher)
    if not any(isinstance(module, torch.nn.Conv2d) for model in models for module in model.modules()):
        return torch.contiguous_format
    modes = [model.training for model in models]
    try:
        for model in models:
            _move(model, torch.channels_last).eval()
            leaves = _float_leaves(call(model, data.inputs, _laid_out(data.batches[0].inputs, torch.channels_last)))
            if any(leaf.requires_grad for leaf in leaves):
                cast("torch.Tensor", sum(leaf.sum() for leaf in leaves if leaf.requires_grad)).backward()
    except RuntimeError:
        return torch.contiguous_format
    finally:
        for model, mode in zip(models, modes, strict=True):
            _move(model, torch.contiguous_format).train(mode)
            model.zero_grad(set_to_none=True)
    return torch.channels_last


def _move(model: torch.nn.Module, layout: torch.memory_format, device: str | None = None) -> torch.nn.Module:
    """Move a module in place; the types of torch know no memory format of modules."""
    to: Any = model.to
    return cast("torch.nn.Module", to(device=device, memory_format=layout))


def _laid_out(leaves: Sequence[torch.Tensor], layout: torch.memory_format) -> list[torch.Tensor]:
    return [leaf.contiguous(memory_format=layout) if leaf.ndim == 4 else leaf for leaf in leaves]


class _Mode:
    """Mode of a model during training: training mode, as far as the model and the data allow."""

    def __init__(self, job: RecoverJob, probed: Batches, keeps_statistics: bool) -> None:
        self._job, self._keeps_statistics = job, keeps_statistics
        self._is_eval = not _answers_alike(job.model, probed)
        if self._is_eval:
            job.warn(
                "in training mode the model returns something else than in eval mode, so it was trained in eval mode: "
                "without dropout, the statistics of BatchNorm kept"
            )

    def usable(self, data: Batches) -> Batches:
        """Return the batches to train on: all, except those that are too small if BatchNorm learns from them."""
        if self._is_eval or self._keeps_statistics:
            return data
        found = learnable(self._job.model, data)
        if found:
            return replace(data, batches=tuple(found))
        self._keeps_statistics = True
        self._job.warn(NOTHING_TO_LEARN)
        return data

    def enter(self, model: torch.nn.Module) -> None:
        """Put a model into this mode."""
        import torch

        model.train(not self._is_eval)
        if self._keeps_statistics:
            for layer in layers_of(model):
                layer.eval()
        # On GPUs recurrent layers have gradients in training mode only; quantizers learn ranges at layers in that mode.
        for module in model.modules():
            if isinstance(module, (torch.nn.RNNBase, torch.nn.Linear, torch.nn.modules.conv._ConvNd)):
                module.train()


def _answers_alike(model: torch.nn.Module, probed: Batches) -> bool:
    """Return whether a model's outputs have the same structure and shapes in training mode as in eval mode."""
    import torch

    found = []
    for training in (True, False):
        model.train(training)
        for layer in layers_of(model):
            layer.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                leaves, structure = flatten_outputs(call(model, probed.inputs, probed.batches[0].inputs))
            found.append((structure, [leaf.shape for _, leaf in leaves]))
        except Exception:
            # A model that fails in training mode, for example because it needs targets, is trained in eval mode.
            found.append((None, []))
    return found[0] == found[1]


class _Lesson:
    """Batches with the teacher's outputs, computed once."""

    def __init__(self, job: RecoverJob, data: Batches, layout: torch.memory_format, forward_and_back: Pass) -> None:
        import torch

        self._layout, self._device = layout, training_device()
        self._pass, self._class_dim = forward_and_back, job.class_dim
        self.batches = data.batches
        self._inputs, self._teacher = data.inputs, job.teacher
        self._can_cut = data.is_sliceable() and not any(data.dims)
        with torch.no_grad():
            self._answers = [self._outputs(job.teacher, batch.inputs) for batch in data.batches]
            main = main_output(call(job.teacher, data.inputs, self._there(data.batches[0].inputs)), job.output)
        if not self._answers or not self._answers[0]:
            raise StageError("the model has no floating-point outputs to distil from", "use 'recover: batchnorm'")
        self._classes = 0 if job.class_dim is None else main.shape[job.class_dim]
        self._ndim = main.ndim
        self._scales = [_scale(list(leaves)) for leaves in zip(*self._answers, strict=True)]

    def teach(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> float:
        """Train for one pass over the batches in a new order, and return the mean loss."""
        import torch

        total = 0.0
        pairs = self._shuffled()
        for batch, answers in map(self._half_mixed, pairs):
            optimizer.zero_grad(set_to_none=True)
            with self._pass():
                loss = self._loss(model, batch, answers)
                if not torch.isfinite(loss):
                    raise StageError("the loss of the recovery is not finite", "give a smaller lr in 'recover'")
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        return total / len(pairs)

    def loss(self, model: torch.nn.Module) -> float:
        """Return the mean loss in eval mode."""
        import torch

        model.eval()
        with torch.no_grad(), self._pass():
            parts = [
                float(self._loss(model, b, a)) * b.samples for b, a in zip(self.batches, self._answers, strict=True)
            ]
        return sum(parts) / sum(batch.samples for batch in self.batches)

    def _shuffled(self) -> list[tuple[Batch, Sequence[torch.Tensor]]]:
        import torch

        pairs = list(zip(self.batches, self._answers, strict=True))
        shapes = {tuple(leaf.shape[1:] for leaf in (*batch.inputs, *answers)) for batch, answers in pairs}
        uniform = self._can_cut and len(shapes) == 1
        if not uniform:
            return [pairs[i] for i in torch.randperm(len(pairs)).tolist()]
        inputs = [torch.cat(column) for column in zip(*(b.inputs for b, _ in pairs), strict=True)]
        answers = [torch.cat(column) for column in zip(*(a for _, a in pairs), strict=True)]
        order = torch.randperm(len(inputs[0]))
        # A last batch of one sample would stop BatchNorm; the schedule counts batches, so none is dropped.
        chunks = torch.tensor_split(order, len(pairs))
        return [(Batch([leaf[rows] for leaf in inputs], []), [leaf[rows] for leaf in answers]) for rows in chunks]

    def _half_mixed(self, pair: tuple[Batch, Sequence[torch.Tensor]]) -> tuple[Batch, Sequence[torch.Tensor]]:
        """Mix the first half of a batch with other samples of it, if the inputs are floating-point numbers."""
        import torch

        batch, answers = pair
        half = batch.samples // 2
        rows = [leaf.shape[0] == batch.samples if leaf.ndim else False for leaf in (*batch.inputs, *answers)]
        if not self._can_cut or half < 2 or not all(rows) or not all(leaf.is_floating_point() for leaf in batch.inputs):
            return pair
        weight, partner = torch.rand(half), torch.randperm(half)
        mixed = []
        for leaf in batch.inputs:
            share = weight.to(leaf.dtype).reshape(half, *[1] * (leaf.ndim - 1))
            mixed.append(leaf[:half] * share + leaf[:half][partner] * (1 - share))
        with torch.no_grad():
            fresh = self._outputs(self._teacher, mixed)
        inputs = [torch.cat([new, leaf[half:]]) for new, leaf in zip(mixed, batch.inputs, strict=True)]
        return Batch(inputs, []), [torch.cat([new, old[half:]]) for new, old in zip(fresh, answers, strict=True)]

    def _outputs(self, model: torch.nn.Module, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return _float_leaves(call(model, self._inputs, self._there(leaves)))

    def _there(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [leaf.to(self._device) for leaf in _laid_out(leaves, self._layout)]

    def _loss(self, model: torch.nn.Module, batch: Batch, answers: Sequence[torch.Tensor]) -> torch.Tensor:
        given = self._outputs(model, batch.inputs)
        parts = [
            self._leaf_loss(student, teacher, scale)
            for student, teacher, scale in zip(given, answers, self._scales, strict=True)
        ]
        return cast("torch.Tensor", sum(parts)) / len(parts)

    def _leaf_loss(self, student: torch.Tensor, teacher: torch.Tensor, scale: float) -> torch.Tensor:
        from torch.nn import functional

        dim = self._class_dim
        # Other outputs with the number of classes of the main one are taken for class scores too.
        if dim is not None and teacher.ndim == self._ndim and teacher.shape[dim] == self._classes:
            divergence = functional.kl_div(
                functional.log_softmax(student / _TEMPERATURE, dim=dim),
                functional.log_softmax(teacher / _TEMPERATURE, dim=dim),
                reduction="none",
                log_target=True,
            )
            return divergence.sum(dim).mean() * _TEMPERATURE**2
        return functional.mse_loss(student, teacher) / scale


def _scale(answers: list[torch.Tensor]) -> float:
    """Return the variance of an output, at least a thousandth of its mean square."""
    import torch

    values = torch.cat([leaf.detach().reshape(-1) for leaf in answers])
    return max(float(values.var(correction=0)), _FLATTEST * float(values.square().mean())) or 1.0


def _float_leaves(outputs: Any) -> list[torch.Tensor]:
    leaves, _ = flatten_outputs(outputs)
    return [leaf for _, leaf in leaves if leaf.is_floating_point()]
