"""The kinds of stage: small JSON in, small JSON out; all bytes pass through the store.

A stage is ``run(context) -> dict`` with ``blobs`` {name: sha} of what it made, ``facts`` for metrics and downstream
stages, and ``warnings``.
"""

from __future__ import annotations

import gzip
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import batches as data
from ..bundle import local_code
from ..bundle import model as models
from ..bundle.structure import flatten, unflatten
from ..store import blobs
from ..store.base import Store
from . import measure
from .failures import StageError
from .prune import PRUNERS, PruneJob
from .quantize import QUANTIZERS, QuantizeJob
from .recover import RECOVERIES, RecoverJob
from .runtimes import RUNTIMES, Runtime

_MEASURE_BATCH = 64


@dataclass(frozen=True)
class Context:
    """What a stage works with.

    Attributes:
        store: Where bytes are.
        settings: The stage's own settings.
        inputs: Results of the stages it builds on, by role.
        threads: Threads it may use.
        report: Called with a line for the log.
    """

    store: Store
    settings: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    threads: int
    report: Callable[[str], None]

    def model(self, role: str = "model") -> Any:
        """The module made by the stage in this role, or the person's own."""
        made = self.inputs.get(role)
        sha = made["blobs"]["model"] if made else self.settings["model"]["blob"]
        return models.loads(blobs.get_bytes(self.store, sha))

    def data(self, name: str) -> data.Batches:
        """A data set of the study: ``eval``, ``calibration`` or ``train``."""
        return data.read(self.store, self.settings["data"][name])

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A scratch folder."""
        with tempfile.TemporaryDirectory(prefix="quanttaas-") as name:
            yield Path(name)


def run(kind: str, context: Context) -> dict[str, Any]:
    """Run one stage."""
    return {"blobs": {}, "facts": {}, "warnings": [], **_KINDS[kind](context)}


def ignored_modules(names: tuple[str, ...], classes: dict[str, str]) -> list[str]:
    """Paths of the modules that names or class names mean; a module stands for all below it.

    Args:
        names: What the recipe's ``ignore`` says.
        classes: Class name by module path.
    """
    return [path for path, cls in classes.items() if path and (path in names or cls in names)]


def _preview(context: Context) -> dict[str, Any]:
    import torch

    model, evaluation = context.model(), context.data("eval").rebatched(_MEASURE_BATCH)
    with torch.no_grad():
        parts = [data.call(model, evaluation.inputs, batch.inputs) for batch in evaluation.batches]
    _refuse_ragged(context, parts)
    answers = measure.Answers(_joined(parts), _targets(evaluation))
    whole, found = _scored(context, answers)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values() if hasattr(t, "numel"))
    return {
        "facts": {
            "metric": whole.value,
            "metric_low": found.low,
            "metric_high": found.high,
            "samples": evaluation.samples,
            "size_bytes": size,
        }
    }


def _prune(context: Context) -> dict[str, Any]:
    model, settings = context.model(), context.settings
    before = _nonzero(model)
    classes = {path: type(module).__name__ for path, module in model.named_modules()}
    paths = ignored_modules(tuple(settings["ignore"]), classes)
    job = PruneJob(
        model,
        settings["amount"],
        context.data("calibration"),
        tuple(model.get_submodule(path) for path in paths),
        context.report,
    )
    made = PRUNERS.get(settings["method"])(job)
    share = 1 - _nonzero(made.model) / before
    if share <= 0:
        raise StageError("pruning removed nothing", "ask for a larger amount, or ignore fewer modules")
    facts = {"pruned_share": share}
    return {"blobs": {"model": blobs.put_bytes(context.store, models.dumps(made.model))}, "facts": facts, "warnings": list(made.warnings)}


def _recover(context: Context) -> dict[str, Any]:
    settings = context.settings
    pruned = context.model("pruned")
    zeros = {name: p == 0 for name, p in pruned.named_parameters()} if settings["keep_zeros"] else {}
    job = RecoverJob(
        model=_masked(pruned, zeros),
        teacher=context.model(),
        data=context.data(settings["recover_on"]),
        is_classifier=settings["is_classifier"],
        epochs=settings["epochs"],
        lr=settings["lr"],
        seed=settings["seed"],
        report=context.report,
    )
    facts = RECOVERIES.get(settings["method"])(job)
    recovered = _unmasked(job.model, zeros)
    facts = {**context.inputs["pruned"]["facts"], "recover": facts}
    return {"blobs": {"model": blobs.put_bytes(context.store, models.dumps(recovered))}, "facts": facts}


def _export(context: Context) -> dict[str, Any]:
    runtime = _runtime(context)
    model, examples = context.model("trained"), context.data("calibration")
    facts: dict[str, Any] = {"params": _parameters(model), "macs": _macs(model, examples)}
    before = context.inputs.get("trained")
    facts["pruned_share"] = before["facts"].get("pruned_share", 0.0) if before else 0.0
    classes = {path: type(module).__name__ for path, module in model.named_modules() if path}
    with context.folder() as folder:
        path = folder / f"model{runtime.suffix}"
        built = runtime.build(model, examples, path, context.report)
        facts |= {"export_error": built.export_error}
        return {
            **_artifact(context, runtime, path, facts),
            "about": {**built.about, "modules": classes},
            "warnings": list(built.warnings),
        }


def _quantize(context: Context) -> dict[str, Any]:
    runtime, settings, source = _runtime(context), context.settings, context.inputs["source"]
    about = source["about"]
    ignore = tuple(ignored_modules(tuple(settings["ignore"]), about["modules"]))
    with context.folder() as folder, blobs.blob_file(context.store, source["blobs"]["artifact"]) as path:
        target = folder / f"quantized{runtime.suffix}"
        job = QuantizeJob(
            path, target, context.data("calibration"), tuple(about["input_names"]), ignore, context.report
        )
        QUANTIZERS.get((settings["quantization"], settings["runtime"]))(job)
        made = _artifact(context, runtime, target, source["facts"])
    made["about"] = about
    return {**made, "warnings": _quantization_warnings(settings["quantization"], made["facts"], source["facts"])}


def _evaluate(context: Context) -> dict[str, Any]:
    evaluation = context.data("eval").rebatched(_MEASURE_BATCH)
    answers = _answers(context, evaluation)
    baseline = context.inputs.get("baseline")
    reference = _outputs(data.read(context.store, baseline["outputs"])) if baseline else None
    mine = measure.Answers(answers, _targets(evaluation), reference)
    whole, found = _scored(context, mine)
    facts: dict[str, Any] = {
        "metric": whole.value,
        "metric_low": found.low,
        "metric_high": found.high,
        "samples": evaluation.samples,
    }
    if baseline is None:
        kept = _as_batches(answers, evaluation)
        outputs = data.write(context.store, kept)
        named = {f"outputs{i}": sha for i, sha in enumerate(outputs["shards"])}
        return {
            "blobs": named,
            "outputs": outputs,
            "facts": {**facts, "drop": 0.0, "drop_low": 0.0, "drop_high": 0.0, "agreement": 1.0, "sqnr_db": None},
        }
    function = _function(context)
    original = measure.score(context.settings["metric"], function, measure.Answers(reference, mine.targets, reference))
    drop = measure.drop_of(context.settings["metric"], function, mine, whole, original, context.settings["seed"])
    agreement = measure.score({"kind": "built-in", "name": "agreement"}, None, mine)
    return {
        "facts": {
            **facts,
            "drop": drop.value,
            "drop_low": drop.low,
            "drop_high": drop.high,
            "agreement": agreement.value,
            "sqnr_db": measure.sqnr_db(answers, reference),
        }
    }


def _latency(context: Context) -> dict[str, Any]:
    import numpy as np

    runtime, size = _runtime(context), context.settings["batch"]
    evaluation = context.data("eval")
    sample = evaluation.head(size).rebatched(size).batches[0]
    arrays = [leaf.numpy() for leaf in sample.inputs]
    # The baseline takes turns with a second session of itself, so that its figure is made like all others.
    roles = ["artifact", "baseline" if "baseline" in context.inputs else "artifact"]
    runs = []
    for role in roles:
        with blobs.blob_file(context.store, context.inputs[role]["blobs"]["artifact"]) as path:
            names = context.inputs[role]["about"]["input_names"]
            session = runtime.open(path, context.settings["threads"], names)
        runs.append(lambda session=session: session(arrays))
    seconds = measure.interleaved_latency(runs)
    median = float(np.median(seconds[0]))
    facts = {
        "latency_ms": median * 1e3,
        "latency_p90_ms": float(np.percentile(seconds[0], 90)) * 1e3,
        "speedup": float(np.median(seconds[1])) / median if "baseline" in context.inputs else 1.0,
    }
    return {"facts": facts}


_KINDS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "preview": _preview,
    "prune": _prune,
    "recover": _recover,
    "export": _export,
    "quantize": _quantize,
    "evaluate": _evaluate,
    "latency": _latency,
}


def _runtime(context: Context) -> Runtime:
    return RUNTIMES.get(context.settings["runtime"])


def _artifact(context: Context, runtime: Runtime, path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    layers = runtime.layers(path)
    content = path.read_bytes()
    size = {"size_bytes": len(content), "size_gzip_bytes": len(gzip.compress(content, 6, mtime=0))}
    counts = {"quantized_layers": layers.quantized, "quantizable_layers": layers.quantizable}
    return {
        "blobs": {"artifact": blobs.put_file(context.store, path)},
        "facts": {**facts, **size, **counts},
        "kept": list(layers.kept),
        "suffix": runtime.suffix,
    }


def _quantization_warnings(quantization: str, made: dict[str, Any], source: dict[str, Any]) -> list[str]:
    quantized, quantizable = made["quantized_layers"], made["quantizable_layers"]
    if quantized == 0:
        raise StageError(
            f"{quantization} changed none of the {quantizable} layers with weights"
            if quantizable
            else f"{quantization} found no layer with weights in this model",
            "try another quantization, or ignore fewer modules",
        )
    found = []
    if quantized < quantizable:
        found.append(f"{quantization} in {quantized} of {quantizable} layers")
    if made["size_bytes"] >= source["size_bytes"]:
        found.append(f"{quantization} made the file larger")
    return found


def _answers(context: Context, evaluation: data.Batches) -> Any:
    import torch

    made = context.inputs["artifact"]
    with blobs.blob_file(context.store, made["blobs"]["artifact"]) as path:
        session = _runtime(context).open(path, context.threads, made["about"]["input_names"])
    parts = []
    for index, batch in enumerate(evaluation.batches):
        arrays = session([leaf.numpy() for leaf in batch.inputs])
        parts.append(unflatten(made["about"]["outputs"], [torch.from_numpy(array) for array in arrays]))
        if index % 50 == 49:
            context.report(f"measured {sum(b.samples for b in evaluation.batches[: index + 1])} samples")
    _refuse_ragged(context, parts)
    return _joined(parts)


def _scored(context: Context, answers: measure.Answers) -> tuple[measure.Score, measure.Interval]:
    metric, function = context.settings["metric"], _function(context)
    whole = measure.score(metric, function, answers)
    return whole, measure.interval_of(metric, function, answers, whole, context.settings["seed"])


def _function(context: Context) -> Any:
    blob = context.settings["metric"].get("blob")
    return local_code.loads(blobs.get_bytes(context.store, blob)) if blob else None


def _joined(parts: list[Any], fill: float = 0) -> Any:
    """Outputs of batches as the output of one; rows of different lengths are filled up, labels as ignored ones."""
    structure = flatten(parts[0])[1]
    return unflatten(structure, [_concatenated(column, fill) for column in _columns(parts)])


def _columns(parts: list[Any]) -> list[list[Any]]:
    return [list(column) for column in zip(*([leaf for _, leaf in flatten(part)[0]] for part in parts), strict=True)]


def _is_ragged(parts: list[Any]) -> bool:
    return any(len({leaf.shape[1:] for leaf in column}) > 1 for column in _columns(parts))


def _refuse_ragged(context: Context, parts: list[Any]) -> None:
    """Only accuracy knows which rows were filled up; any other metric would count them."""
    name = context.settings["metric"]["name"]
    if name != "accuracy" and _is_ragged(parts):
        raise StageError(
            f"metric {name!r} cannot judge outputs whose length differs between batches",
            "pad all batches to one length, or use accuracy with -100 for what does not count",
        )


def _concatenated(column: list[Any], fill: float) -> Any:
    import torch

    if column[0].ndim == 0:
        return torch.stack(column)
    widest = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in column), strict=True)]
    padded = []
    for leaf in column:
        missing = [wide - have for wide, have in zip(widest, leaf.shape[1:], strict=True)]
        sides = [part for gap in reversed(missing) for part in (0, gap)]
        padded.append(torch.nn.functional.pad(leaf, sides, value=fill) if any(sides) else leaf)
    return torch.cat(padded)


def _targets(evaluation: data.Batches) -> Any:
    if not evaluation.has_targets:
        return None
    parts = [unflatten(evaluation.targets, list(batch.targets)) for batch in evaluation.batches]
    return _joined(parts, fill=measure.IGNORED_LABEL)


def _as_batches(outputs: Any, evaluation: data.Batches) -> data.Batches:
    leaves, structure = flatten(outputs)
    whole = data.Batch([leaf for _, leaf in leaves], [])
    return data.Batches((whole,), tuple(name or "output" for name, _ in leaves), structure, None)


def _outputs(kept: data.Batches) -> Any:
    return unflatten(kept.inputs, list(kept.batches[0].inputs))


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _nonzero(model: Any) -> int:
    """Parameters without the zero weights: what pruning of any kind leaves of a model."""
    return sum(int((p != 0).sum()) if p.ndim > 1 else p.numel() for p in model.parameters())


def _macs(model: Any, examples: data.Batches) -> int | None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    one = examples.head(1).batches[0]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            data.call(model, examples.inputs, one.inputs)
    except Exception:
        # A count is a nicety: an operation that the counter cannot see through must not cost the trial.
        return None
    return math.ceil(counter.get_total_flops() / 2)


def _masked(model: Any, zeros: dict[str, Any]) -> Any:
    """Keep pruned weights at zero while a recovery trains the others."""
    for name, parameter in model.named_parameters():
        mask = zeros.get(name)
        if mask is not None and bool(mask.any()):
            parameter.requires_grad_(True)
            parameter.register_hook(lambda gradient, mask=mask: gradient.masked_fill(mask, 0.0))
    return model


def _unmasked(model: Any, zeros: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter._backward_hooks = None
            if name in zeros:
                parameter.masked_fill_(zeros[name], 0.0)
    return model
