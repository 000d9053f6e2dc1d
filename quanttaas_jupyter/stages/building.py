"""Stages that build models and artifacts; none of them reads the data that judges trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import model as models
from ..bundle.batches import Batches
from ..core import catalogue
from ..core.catalogue import Rounding
from ..core.failures import StageError
from ..core.records.stage import StageResult
from ..store import blobs
from ..techniques import portable_model
from ..techniques.evaluate.judge import drop_between
from ..techniques.evaluate.sqnr import sqnr_of_batches
from ..techniques.evaluate.tensors import leaves_of
from ..techniques.prune import PRUNERS, PruneJob
from ..techniques.prune import RANKERS as PRUNE_RANKERS
from ..techniques.quantize import QUANTIZERS, QuantizeJob
from ..techniques.quantize import RANKERS as QUANTIZE_RANKERS
from ..techniques.recover import RECOVERIES, RecoverJob
from ..techniques.runtimes import Runtime, Session
from ..techniques.runtimes.export_check import as_built
from . import inference
from .context import Context
from .model_profile import classes_of, macs_of, nonzero_in, parameters_of, weights_by_kind
from .packing import packed_size

if TYPE_CHECKING:
    import torch

_JUDGED_SAMPLES = 512
"""Samples on which techniques and screens compute a drop; chosen, not tuned. Fewer make their decisions noisy."""
_LOOKED_AT, _BROKEN_DB = 64, 3.0
"""Samples, and the SQNR in decibels below which integers count as broken: noise of half the signal's power."""
_HELD_BYTES = 256 << 20
"""Bytes of outputs that are held for further comparisons; chosen, not tuned."""
_SCREEN_SHARE, _SCREEN_SAMPLES, _SCREEN_EPOCHS = 0.2, 1024, 3
"""Share of the training data, most samples and most epochs of a screen; chosen, not tuned. Larger screens cost more."""


def ignored_modules(names: tuple[str, ...], classes: Mapping[str, str]) -> list[str]:
    """Return the paths of the modules that names or class names mean; a module includes its submodules.

    A name that no module has is the class of the model itself, since unknown names were refused at submission. Then the
    whole model is meant, under the path "".

    Args:
        names: The recipe's ``ignore``.
        classes: Class name by module path.
    """
    known = {*classes, *classes.values()}
    whole = [""] if any(name not in known for name in names) else []
    return whole + [path for path, cls in classes.items() if path and (path in names or cls in names)]


def sensitivity(context: Context) -> StageResult:
    """Rank layers by the damage that pruning or quantizing each alone does to the outputs on calibration data."""
    if context.settings["of"] == "prune":
        ranking = PRUNE_RANKERS.get("structured")(_prune_job(context, amount=0.5))
    else:
        with context.folder() as folder, context.file("source", graph=True) as path:
            ranking = QUANTIZE_RANKERS.get(context.settings["runtime"])(_quantize_job(context, path, folder))
    return StageResult(ranking=tuple((layer, float(decibels)) for layer, decibels in ranking))


def prune(context: Context) -> StageResult:
    """Prune the model, and count the share of parameters that was removed.

    Raises:
        StageError: Nothing was removed.
    """
    settings = context.settings
    job = _prune_job(context, settings["amount"])
    # Structured pruning removes channels with all their weights; other methods only add zeros.
    count = parameters_of if settings["method"] == "structured" else nonzero_in
    whole, before = parameters_of(job.model), count(job.model)
    made = PRUNERS.get(settings["method"])(job)
    left = count(made.model)
    share = (before - left) / whole
    if share <= 0:
        raise StageError("pruning removed nothing", "ask for a larger amount, or ignore fewer modules")
    pruned = _model(context, made.model, {"pruned_share": share})
    return dataclasses.replace(pruned, warnings=made.warnings, choices=made.choices)


def screen(context: Context) -> StageResult:
    """Recover for a short time on a part of the data, and evaluate the drop on a part of the guiding half."""
    pruned, teacher = context.model("pruned"), context.model()
    lesson = context.data(context.settings["recover_on"])
    _, part = lesson.split(_SCREEN_SHARE, _SCREEN_SAMPLES, context.settings["seed"])
    epochs = min(_SCREEN_EPOCHS, context.settings["epochs"] or _SCREEN_EPOCHS)
    # The full recovery continues from this one, and gives the same warnings.
    recovered, _ = _taught(context, pruned, teacher, part, epochs, warn=context.report)
    samples = context.data("guide").head(_JUDGED_SAMPLES)
    answer, taught = (inference.answer_of_module(model, samples.inputs) for model in (teacher, recovered))
    samples = inference.fitted(samples, answer)
    mine, theirs = map(taught, samples.batches), map(answer, samples.batches)
    targets = (inference.targets_of(samples, batch) for batch in samples.batches)
    drop = drop_between(context.measure, zip(mine, targets, theirs, strict=True), samples.samples)
    return _model(context, recovered, {**context.inputs["pruned"].measurements, "screen_drop": drop})


def recover(context: Context) -> StageResult:
    """Run a recovery on a pruned model, or on the original one if the trial does not prune."""
    portable_model.refuse(context.settings["model"])
    before = context.inputs.get("pruned")
    model = context.model("pruned")
    warnings: list[str] = []
    lesson, epochs = context.data(context.settings["recover_on"]), context.settings["epochs"]
    recovered, summary = _taught(context, model, context.model(), lesson, epochs, warnings.append)
    made = _model(context, recovered, {**(before.measurements if before else {}), "recover": summary})
    return dataclasses.replace(made, warnings=tuple(warnings))


def export(context: Context) -> StageResult:
    """Build the unquantized artifact of a module."""
    runtime = context.runtime
    model, examples = context.model("trained"), context.data("calibration")
    measurements: dict[str, Any] = {"params": parameters_of(model), "macs": macs_of(model, examples)}
    before = context.inputs.get("trained")
    measurements["pruned_share"] = before.measurements.get("pruned_share", 0.0) if before else 0.0
    with context.folder() as folder:
        path = folder / f"model{runtime.suffix}"
        built = runtime.build(model, examples, path, context.report)
        measurements |= {"export_error": built.export_error}
        return dataclasses.replace(
            _artifact(context, runtime, path, measurements, built.graph),
            warnings=(*built.warnings, *filter(None, [built.signature.why_fixed])),
            signature=built.signature,
            modules=classes_of(model),
            weights=weights_by_kind(model),
        )


def quantize(context: Context) -> StageResult:
    """Quantize an artifact.

    Raises:
        StageError: No layer changed.
    """
    runtime, settings, source = context.runtime, context.settings, context.inputs["source"]
    with context.folder() as folder, context.file("source", graph=True) as path:
        job = _quantize_job(context, path, folder)
        done = QUANTIZERS.get((settings["quantization"], settings["runtime"]))(job)
        made = _artifact(context, runtime, job.target, source.measurements, done.graph)
        warnings = _quantization_warnings(settings["quantization"], made.measurements, source.measurements)
        warnings += _broken_by(settings["quantization"], settings["runtime"], context, job, done.graph)
    return dataclasses.replace(
        made,
        warnings=(*done.warnings, *warnings),
        choices=done.choices,
        signature=source.signature,
        modules=source.modules,
        weights=source.weights,
    )


class CalibrationJudge:
    """Evaluation of files on calibration data: their drop from the original model, and their SQNR against their source.

    A file is an artifact, or its graph if artifacts cannot run here.
    """

    def __init__(self, context: Context, samples: Batches) -> None:
        self._context, self._samples = context, samples
        self._signature = context.inputs["source"].signature
        self._held: dict[str, list[Any]] = {}

    def drop(self, path: Path) -> float:
        """Return the drop from the original, unpruned model, in the metric's unit."""
        return self.drop_of(self._opened(path))

    def drop_of(self, session: Session) -> float:
        """``drop`` of a model that is open already."""
        targets = (inference.targets_of(self._fitted, batch) for batch in self._fitted.batches)
        batches = zip(self._said(session), targets, self._original(), strict=True)
        return drop_between(self._context.measure, batches, self._samples.samples)

    def sqnr_db(self, path: Path) -> float:
        """Return the SQNR of the outputs against the unquantized ones, in decibels; 120 if they are equal."""
        return sqnr_of_batches(zip(self._said(self._opened(path)), self._outputs_of("source"), strict=True))

    def _original(self) -> Iterable[Any]:
        inputs = self._context.inputs
        is_same = "original" not in inputs or inputs["original"].blobs == inputs["source"].blobs
        return self._outputs_of("source" if is_same else "original")

    def _outputs_of(self, role: str) -> Iterable[Any]:
        """Yield the outputs of the stage in this role; they are held while they are few, and computed again if not."""
        if role in self._held:
            yield from self._held[role]
            return
        held: list[Any] | None = []
        size = 0
        with self._context.opened(role) as session:
            for outputs in self._said(session):
                size += sum(leaf.nbytes for leaf in leaves_of(outputs))
                held = [*held, outputs] if held is not None and size <= _HELD_BYTES else None
                yield outputs
        if held is not None:
            self._held[role] = held

    @cached_property
    def _fitted(self) -> Batches:
        with self._context.opened("source") as session:
            return inference.fitted(self._samples, inference.answer_of_session(session, self._signature))

    def _opened(self, path: Path) -> Session:
        runtime = self._context.runtime
        open_ = runtime.open_graph if runtime.why_not_run() else runtime.open
        return as_built(open_(path, self._context.threads, self._signature.input_names), self._signature)

    def _said(self, session: Session) -> Iterator[Any]:
        return map(inference.answer_of_session(session, self._signature), self._fitted.batches)


def _prune_job(context: Context, amount: float) -> PruneJob:
    portable_model.refuse(context.settings["model"])
    model, settings = context.model(), context.settings
    paths = ignored_modules(tuple(settings["ignore"]), classes_of(model))
    return PruneJob(
        model=model,
        amount=amount,
        examples=context.data("calibration"),
        ignore=tuple(model.get_submodule(path) for path in paths),
        report=context.report,
        importance=settings.get("importance", "auto"),
        scope=settings.get("scope", "global"),
        spread=settings.get("spread", 0.0),
        ranking=context.ranking,
        class_dim=settings["class_dim"],
        output=settings["output"],
    )


def _quantize_job(context: Context, source: Path, folder: Path) -> QuantizeJob:
    settings, made_from = context.settings, context.inputs["source"]
    calibration = context.data("calibration")
    whole = calibration.head(_JUDGED_SAMPLES)
    if made_from.signature.fixed_batch:
        calibration = dataclasses.replace(calibration.rebatched(1), is_cut=False)
    return QuantizeJob(
        source=source,
        target=folder / f"quantized{context.runtime.suffix}",
        calibration=calibration,
        names=made_from.signature.input_names,
        ignore=tuple(ignored_modules(tuple(settings["ignore"]), made_from.modules)),
        report=context.report,
        calibrator=settings.get("calibrator", "auto"),
        keep=settings.get("keep", 0),
        ranking=context.ranking,
        max_drop=settings.get("max_drop", 0.0),
        judge=CalibrationJudge(context, whole),
        targets=tuple(settings.get("targets", ())),
        notes=context.notes,
        class_dim=settings.get("class_dim"),
        output=settings.get("output", ""),
        module=(lambda: _whole(context)) if "model" in settings else None,
    )


def _whole(context: Context) -> torch.nn.Module:
    portable_model.refuse(context.settings["model"])
    return context.model("trained")


def _taught(
    context: Context,
    model: torch.nn.Module,
    teacher: torch.nn.Module,
    lesson: Batches,
    epochs: int | None,
    warn: Callable[[str], None],
) -> tuple[torch.nn.Module, dict[str, Any]]:
    settings = context.settings
    zeros = {name: p == 0 for name, p in model.named_parameters()} if settings["keep_zeros"] else {}
    ignored = ignored_modules(tuple(settings.get("ignore", ())), classes_of(model))
    job = RecoverJob(
        model=_masked(model, zeros),
        teacher=teacher,
        data=lesson,
        class_dim=settings["class_dim"],
        output=settings["output"],
        epochs=epochs,
        lr=settings["lr"],
        seed=settings["seed"],
        report=context.report,
        warn=warn,
        effort=settings["effort"],
        precision=settings.get("precision", ""),
        rounding=Rounding(**settings["rounding"]) if "rounding" in settings else None,
        ignore=tuple(model.get_submodule(path) for path in ignored),
        function=context.function("function"),
    )
    summary = RECOVERIES.get(settings["method"])(job)
    return _unmasked(job.model, zeros), summary


def _model(context: Context, model: torch.nn.Module, measurements: Mapping[str, Any]) -> StageResult:
    with context.folder() as folder:
        models.save(model, folder / "model")
        blob = blobs.give_file(context.store, folder / "model")
    return StageResult(blobs={"model": blob}, measurements=measurements)


def _artifact(
    context: Context, runtime: Runtime, path: Path, measurements: Mapping[str, Any], graph: Path | None
) -> StageResult:
    layers = runtime.layers(graph or path)
    size = {"size_bytes": path.stat().st_size, "size_gzip_bytes": packed_size(path)}
    counts = {
        "quantized_layers": layers.quantized,
        "quantizable_layers": layers.quantizable,
        "integer_layers": layers.integers,
    }
    files = {"artifact": path, **({"graph": graph} if graph else {})}
    return StageResult(
        blobs={name: blobs.give_file(context.store, file) for name, file in files.items()},
        measurements={**measurements, **size, **counts},
        suffix=runtime.suffix_of(path),
        kept=layers.kept,
    )


def _quantization_warnings(quantization: str, made: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    quantized, quantizable = made["quantized_layers"], made["quantizable_layers"]
    # A float16 model has narrow weights before any quantization: only new ones count.
    counted = "integer_layers" if _makes_integers(quantization) else "quantized_layers"
    if made[counted] <= source[counted]:
        raise StageError(
            f"{quantization} changed none of the {quantizable} layers with weights"
            if quantizable
            else f"{quantization} found no layer with weights in this model",
            "try another quantization, or ignore fewer modules",
        )
    warnings = []
    if quantized < quantizable:
        warnings.append(f"{quantization} in {quantized} of {quantizable} layers")
    if made["size_bytes"] >= source["size_bytes"]:
        warnings.append(f"{quantization} made the file larger")
    return warnings


def _makes_integers(quantization: str) -> bool:
    known = catalogue.find("quantize", quantization)
    return known is not None and bool(known.makes_integers)


def _broken_by(quantization: str, runtime: str, context: Context, job: QuantizeJob, graph: Path | None) -> list[str]:
    """Return a warning if the outputs differ so much from the source's that rounding alone cannot be the reason."""
    if not _makes_integers(quantization):
        return []
    few = job.calibration.head(_LOOKED_AT)
    target = graph if graph and context.runtime.why_not_run() else job.target
    decibels = CalibrationJudge(context, few).sqnr_db(target)
    if decibels >= _BROKEN_DB:
        return []
    others = " or ".join(name for name in ("mixed", "int8-weight", "fp16") if name != quantization)
    return [
        f"outputs at {decibels:.1f} dB of the original: {quantization} breaks this model in {runtime}; try {others}"
    ]


def _masked(model: torch.nn.Module, zeros: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Keep pruned weights at zero during a recovery, by masking their gradients."""
    for name, parameter in model.named_parameters():
        mask = zeros.get(name)
        if mask is not None and bool(mask.any()):
            parameter.requires_grad_(True)
            parameter.register_hook(lambda gradient, mask=mask: gradient.masked_fill(mask.to(gradient.device), 0.0))
    return model


def _unmasked(model: torch.nn.Module, zeros: dict[str, torch.Tensor]) -> torch.nn.Module:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter._backward_hooks = None
            if name in zeros:
                parameter.masked_fill_(zeros[name], 0.0)
    return model
