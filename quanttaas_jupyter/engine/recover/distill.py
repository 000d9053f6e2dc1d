"""Distillation: the original model teaches the pruned one, no labels needed.

After Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015). Class scores are matched by
the Kullback-Leibler divergence at a raised temperature, every other output by its mean squared error in units of the
teacher's variance.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ...bundle.batches import Batch, Batches, call
from ...bundle.structure import flatten
from ..failures import StageError
from . import RECOVERIES, RecoverJob
from .batchnorm import estimate_again

_TEMPERATURE = 2.0
_LEARNING_RATE = 3e-3
_HELD_OUT = 0.1
_BATCH = 64
_SAMPLE_PASSES = 60_000
_FEWEST_EPOCHS, _MOST_EPOCHS = 6, 40
_PATIENCE = 6


@RECOVERIES.register("distill", packages=("torch",))
def recover(job: RecoverJob) -> dict[str, Any]:
    """Train with AdamW under a one-cycle schedule; stop early on held-out inputs; keep the best weights.

    Raises:
        StageError: The loss is not finite, or there are no floating-point outputs to learn from.
    """
    import torch

    torch.manual_seed(job.seed)
    estimate_again(job.model, job.data)
    seen, held_out = job.data.split(_HELD_OUT, limit=2_000, seed=job.seed)
    if not seen.batches:
        seen = held_out
    lesson = _Lesson(job, seen.rebatched(_BATCH))
    exam = _Lesson(job, held_out.rebatched(256))
    epochs = job.epochs or max(_FEWEST_EPOCHS, min(_MOST_EPOCHS, _SAMPLE_PASSES // max(1, seen.samples)))

    parameters = [p for p in job.model.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    peak = job.lr or _LEARNING_RATE
    optimizer = torch.optim.AdamW(parameters, lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=epochs * len(lesson.batches), pct_start=0.2
    )
    best_loss, best_weights, best_epoch = exam.loss(job.model), copy.deepcopy(job.model.state_dict()), 0
    losses: list[float] = []
    epoch = 0
    for epoch in range(1, epochs + 1):
        losses.append(lesson.teach(job.model, optimizer, schedule))
        held = exam.loss(job.model)
        job.report(f"distilling, epoch {epoch} of {epochs}, loss {losses[-1]:.3f}, held-out {held:.3f}")
        if held < best_loss:
            best_loss, best_weights, best_epoch = held, copy.deepcopy(job.model.state_dict()), epoch
        elif epoch - best_epoch >= _PATIENCE and epoch > epochs // 2:
            break
    job.model.load_state_dict(best_weights)
    for parameter in parameters:
        parameter.grad = None
    job.model.eval()
    return {"epochs": epoch, "best_epoch": best_epoch, "losses": losses, "held_out_loss": best_loss}


class _Lesson:
    """Batches with the teacher's answers, asked for once."""

    def __init__(self, job: RecoverJob, data: Batches) -> None:
        import torch

        self.batches = data.batches
        self._inputs = data.inputs
        self._is_classifier = job.is_classifier
        self._can_shuffle_samples = data.is_sliceable()
        with torch.no_grad():
            self._answers = [_float_leaves(call(job.teacher, data.inputs, b.inputs)) for b in data.batches]
        if not self._answers or not self._answers[0]:
            raise StageError("the model has no floating-point outputs to distil from", "use 'recover: batchnorm'")
        self._scales = [
            max(float(torch.cat([a[i].reshape(-1) for a in self._answers]).var()), 1e-8)
            for i in range(len(self._answers[0]))
        ]

    def teach(self, model: Any, optimizer: Any, schedule: Any) -> float:
        """One pass over the batches in a new order; returns the mean loss."""
        import torch

        model.train()
        total = 0.0
        pairs = self._shuffled()
        for batch, answers in pairs:
            optimizer.zero_grad(set_to_none=True)
            loss = self._loss(model, batch, answers)
            if not torch.isfinite(loss):
                raise StageError("the loss of the distillation is not finite", "give a smaller lr in 'recover'")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        return total / len(pairs)

    def loss(self, model: Any) -> float:
        """The mean loss in eval mode."""
        import torch

        model.eval()
        with torch.no_grad():
            parts = [
                float(self._loss(model, b, a)) * b.samples for b, a in zip(self.batches, self._answers, strict=True)
            ]
        return sum(parts) / sum(batch.samples for batch in self.batches)

    def _shuffled(self) -> list[tuple[Batch, Sequence[Any]]]:
        import torch

        pairs = list(zip(self.batches, self._answers, strict=True))
        shapes = {tuple(leaf.shape[1:] for leaf in (*batch.inputs, *answers)) for batch, answers in pairs}
        uniform = self._can_shuffle_samples and len(shapes) == 1
        if not uniform:
            return [pairs[i] for i in torch.randperm(len(pairs)).tolist() if pairs[i][0].samples > 1 or len(pairs) == 1]
        inputs = [torch.cat(column) for column in zip(*(b.inputs for b, _ in pairs), strict=True)]
        answers = [torch.cat(column) for column in zip(*(a for _, a in pairs), strict=True)]
        order = torch.randperm(len(inputs[0]))
        # A last batch of one sample would stop BatchNorm; the schedule counts batches, so none is dropped.
        chunks = torch.tensor_split(order, len(pairs))
        return [(Batch([leaf[rows] for leaf in inputs], []), [leaf[rows] for leaf in answers]) for rows in chunks]

    def _loss(self, model: Any, batch: Batch, answers: Sequence[Any]) -> Any:
        given = _float_leaves(call(model, self._inputs, batch.inputs))
        parts = [
            self._leaf_loss(student, teacher, scale)
            for student, teacher, scale in zip(given, answers, self._scales, strict=True)
        ]
        return sum(parts) / len(parts)

    def _leaf_loss(self, student: Any, teacher: Any, scale: float) -> Any:
        from torch.nn import functional

        if self._is_classifier and teacher.ndim >= 2 and teacher.shape[1] > 1:
            divergence = functional.kl_div(
                functional.log_softmax(student / _TEMPERATURE, dim=1),
                functional.log_softmax(teacher / _TEMPERATURE, dim=1),
                reduction="none",
                log_target=True,
            )
            return divergence.sum(1).mean() * _TEMPERATURE**2
        return functional.mse_loss(student, teacher) / scale


def _float_leaves(outputs: Any) -> list[Any]:
    leaves, _ = flatten(outputs)
    return [leaf for _, leaf in leaves if hasattr(leaf, "is_floating_point") and leaf.is_floating_point()]
