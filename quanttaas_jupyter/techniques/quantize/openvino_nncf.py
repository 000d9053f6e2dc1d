"""Quantizations for OpenVINO: ``int8``, ``mixed``, ``int8-weight`` and ``int4-weight`` by NNCF, ``fp16``, ``bf16``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ...core.failures import StageError, one_line, optional
from ..runtimes import Session
from ..runtimes.openvino_file import core, feed_of, ignored_nodes, layers_of, load, save, session_of, store_as
from . import QUANTIZERS, Quantized, QuantizeJob
from .fidelity import session_sqnr_db
from .saturation import FULL_BITS, NARROW_BITS, saturates

_SAMPLES, _BATCH = 300, 32
"""Calibration samples, NNCF's default ``subset_size``, and samples per batch."""
_OUTSIDE = 5e-5
"""Share of values outside a ``percentile`` range at each end: 99.99 % lie inside, as on ONNX Runtime."""
_GOOD_DB = 35.0
"""SQNR in decibels at which no further calibrator is tried; see ``onnx_static``."""
_RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence")


@QUANTIZERS.register(("int8", "openvino"), needs=("calibrator", "processor"))
def quantize(job: QuantizeJob) -> Quantized:
    """Quantize weights and activations after training, with ranges from 300 calibration samples and corrected biases.

    ``auto`` uses minimum and maximum if that leaves 35 dB on calibration samples. Otherwise it tries the mean of the
    batches' extremes, and for models with attention smoothing (Xiao et al., "SmoothQuant", 2022), which helps with
    outliers in activations and costs up to 25 dB without them. It keeps the one closest to the original. If the
    processor's int8 sums saturate, each is also tried with weights of seven bits, until those win.

    Raises:
        StageError: NNCF cannot quantize the graph, or does not support the calibrator.
    """
    nncf = _nncf()
    source = _opened(load(job.source), job)
    best, quality, choices = None, -math.inf, {}
    widths = (FULL_BITS, NARROW_BITS) if saturates() else (FULL_BITS,)
    for name, options in _candidates(nncf, job):
        for bits in widths:
            if quality >= _GOOD_DB:
                break
            model = load(job.source)
            fix = {"overflow_fix": nncf.OverflowFix.ENABLE} if bits == NARROW_BITS else {}
            with _in_one_sentence():
                made = nncf.quantize(model, _samples(nncf, job, model), **_options(nncf, model, job, **options, **fix))
            if (decibels := session_sqnr_db(_opened(made, job), source, job)) > quality:
                best, quality = made, decibels
                choices = {"calibrator": name, **({"weight_bits": bits} if fix else {})}
        if "weight_bits" in choices:
            widths = (NARROW_BITS,)
    job.report(f"calibrated by {choices['calibrator']}: {quality:.1f} dB on calibration samples")
    save(best, job.target)
    return Quantized(_float_arithmetic(best), choices)


@QUANTIZERS.register(("mixed", "openvino"), needs=("calibrator", "goal", "processor"))
def quantize_mixed(job: QuantizeJob) -> Quantized:
    """Quantize with NNCF's accuracy control: layers return to float until the drop on calibration data is allowed.

    If the processor's int8 sums saturate, weights have seven bits.

    Raises:
        StageError: There is no judge, pruning alone exceeds the drop, or no layer can be int8 within it.
    """
    nncf, model = _nncf(), load(job.source)
    judge = job.judge
    if judge is None:
        raise StageError("nothing decides which layers to keep", "use int8 instead")

    def quality(compiled: Any, _: Iterable[Any]) -> tuple[float, None]:
        return -judge.drop_of(session_of(compiled, job.names)), None

    with _in_one_sentence():
        spent = judge.drop(job.source)
        if spent > job.max_drop:
            raise StageError(
                f"pruning alone loses {spent:.4f} on calibration data, more than {job.max_drop:g}",
                "prune less, or allow a larger max_drop",
            )
        samples = _samples(nncf, job, model)
        _, ranges = _candidates(nncf, job)[0]
        fix = {"overflow_fix": nncf.OverflowFix.ENABLE} if saturates() else {}
        options = _options(nncf, model, job, **ranges, **fix)
        options["advanced_quantization_parameters"] = options.pop("advanced_parameters")
        made = nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=samples,
            validation_dataset=samples,
            validation_fn=quality,
            max_drop=job.max_drop - spent,
            drop_type=nncf.DropType.ABSOLUTE,
            **options,
        )
    save(made, job.target)
    kept = [layer.module for layer in layers_of(made) if not layer.is_integer]
    choices = ({"kept": kept} if kept else {}) | ({"weight_bits": NARROW_BITS} if fix else {})
    return Quantized(_float_arithmetic(made), choices)


@QUANTIZERS.register(("int8-weight", "openvino"))
def compress(job: QuantizeJob) -> Quantized:
    """Store weights as symmetric int8 with one scale per output channel; arithmetic stays float32."""
    nncf, model = _nncf(), load(job.source)
    return _compressed(nncf, model, job, mode=nncf.CompressWeightsMode.INT8_SYM)


@QUANTIZERS.register(("int4-weight", "openvino"))
def compress_int4(job: QuantizeJob) -> Quantized:
    """Store weights of matrix products as int4 with a scale for each 64 of them, and other weights as int8.

    Raises:
        StageError: There is no matrix product with weights.
    """
    nncf, model = _nncf(), load(job.source)
    if not any(layer.kind == "MatMul" for layer in layers_of(model)):
        raise StageError("int4-weight touches matrix products only; this model has none", "use int8-weight or int8")
    return _compressed(
        nncf,
        model,
        job,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        all_layers=True,
        group_size=64,
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
    )


@QUANTIZERS.register(("fp16", "openvino"))
def halve(job: QuantizeJob) -> Quantized:
    """Store weights as float16, widened at load; arithmetic on CPUs stays float32, which cannot overflow."""
    return _stored(job, "float16")


@QUANTIZERS.register(("bf16", "openvino"))
def halve_range_kept(job: QuantizeJob) -> Quantized:
    """Store weights as bfloat16, widened at load; arithmetic stays float32."""
    return _stored(job, "bfloat16")


def _stored(job: QuantizeJob, kind: str) -> Quantized:
    model = load(job.source)
    store_as(model, kind, ignored_nodes(model, job.ignore))
    save(model, job.target)
    return Quantized()


def _nncf() -> Any:
    # NNCF sends telemetry unless this variable tells it that it runs in a test.
    os.environ.setdefault("NNCF_CI", "1")
    nncf = optional("nncf", extra="openvino")
    nncf.set_log_level(40)
    return nncf


def _samples(nncf: Any, job: QuantizeJob, model: Any) -> Any:
    batches = job.calibration.head(_SAMPLES).rebatched(_BATCH).batches
    return nncf.Dataset([feed_of(model, job.names, [leaf.numpy() for leaf in batch.inputs]) for batch in batches])


def _candidates(nncf: Any, job: QuantizeJob) -> list[tuple[str, dict[str, Any]]]:
    """Return the calibrations to try for the recipe's calibrator, each as a name and NNCF's options."""
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    ends = [
        StatisticsCollectorParameters(StatisticsType.QUANTILE, AggregatorType.MEAN, quantile_outlier_prob=share)
        for share in (_OUTSIDE, _OUTSIDE)
    ]
    minmax = {"activations_range_estimator_params": RangeEstimatorParametersSet.MINMAX}
    known = {
        "minmax": [("minmax", minmax)],
        "percentile": [("percentile", {"activations_range_estimator_params": RangeEstimatorParameters(*ends)})],
        "auto": [("minmax", minmax), ("mean", {})],
    }
    if job.calibrator not in known:
        raise StageError(f"NNCF has no calibration by {job.calibrator}", "use auto, minmax or percentile")
    if job.calibrator == "auto" and _has_attention(load(job.source)):
        known["auto"].append(("smoothed", {**minmax, "smooth_quant_alphas": _smoothing(nncf, 0.5)}))
    return known[job.calibrator]


def _options(nncf: Any, model: Any, job: QuantizeJob, **advanced: Any) -> dict[str, Any]:
    advanced.setdefault("smooth_quant_alphas", _smoothing(nncf, -1))
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": _SAMPLES,
        "model_type": nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
        "ignored_scope": _ignored(nncf, model, job),
        "advanced_parameters": nncf.AdvancedQuantizationParameters(**advanced),
    }


def _smoothing(nncf: Any, strength: float) -> Any:
    """Return NNCF's options for smoothing of matrix products; a strength of -1 switches it off."""
    return nncf.AdvancedSmoothQuantParameters(matmul=strength, convolution=-1)


def _has_attention(model: Any) -> bool:
    return any(node.get_type_name() == "Softmax" for node in model.get_ops())


def _opened(model: Any, job: QuantizeJob) -> Session:
    return session_of(core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), job.names)


def _compressed(nncf: Any, model: Any, job: QuantizeJob, **options: Any) -> Quantized:
    with _in_one_sentence():
        made = nncf.compress_weights(model, ignored_scope=_ignored(nncf, model, job), **options)
    save(made, job.target)
    return Quantized()


def _ignored(nncf: Any, model: Any, job: QuantizeJob) -> Any:
    return nncf.IgnoredScope(names=ignored_nodes(model, job.ignore))


def _float_arithmetic(model: Any) -> tuple[str, ...]:
    kinds = sorted({layer.kind for layer in layers_of(model) if layer.kind in _RECURRENT})
    return (f"{' and '.join(kinds)}: float32, NNCF quantizes no recurrent weights",) if kinds else ()


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        raise StageError(f"NNCF cannot quantize this model: {one_line(error)}", "try fp16") from error
