"""From what a person gives as a metric to its description in the study's record.

A description is JSON: ``name``, ``kind`` (built-in, torchmetrics, instance, loss, sklearn or callable),
``higher_is_better``, ``percent``, ``digest``, and by kind ``class`` and ``options``, ``takes``, ``per_sample`` and
``others`` (descriptions of further metrics that are reported beside it).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from ...bundle.digest import digest
from ...bundle.local_code import dumps
from ...core.errors import MetricError, MissingDependency, did_you_mean
from ...core.failures import first_line
from ...core.understanding import Judging

_OF_TASK = {
    "classification": "accuracy",
    "binary": "accuracy",
    "multilabel": "accuracy",
    "segmentation": "accuracy",
    "token-classification": "accuracy",
    "regression": "r2",
    "language-model": "perplexity",
    "detection": "map",
    "embedding": "agreement",
}
_HIGHER = {"accuracy": True, "r2": True, "perplexity": False, "agreement": True}
_ALIASES = {
    "f1": "F1Score",
    "auc": "AUROC",
    "map": "MeanAveragePrecision",
    "miou": "JaccardIndex",
    "iou": "JaccardIndex",
    "mse": "MeanSquaredError",
    "mae": "MeanAbsoluteError",
    "mape": "MeanAbsolutePercentageError",
    "psnr": "PeakSignalNoiseRatio",
    "ssim": "StructuralSimilarityIndexMeasure",
    "mcc": "MatthewsCorrCoef",
    "pearson": "PearsonCorrCoef",
    "spearman": "SpearmanCorrCoef",
    "dice": "DiceScore",
}
_MODULES = (
    "torchmetrics",
    "torchmetrics.classification",
    "torchmetrics.detection",
    "torchmetrics.segmentation",
    "torchmetrics.image",
    "torchmetrics.regression",
    "torchmetrics.text",
    "torchmetrics.audio",
    "torchmetrics.retrieval",
    "torchmetrics.clustering",
    "torchmetrics.nominal",
    "torchmetrics.shape",
)
_PERCENT = (
    "accuracy",
    "agreement",
    "precision",
    "recall",
    "f1score",
    "fbetascore",
    "specificity",
    "jaccardindex",
    "auroc",
    "averageprecision",
    "meaniou",
    "dicescore",
    "meanaverageprecision",
    "exactmatch",
)
_OF_BOXES = (
    "meanaverageprecision",
    "intersectionoverunion",
    "completeintersectionoverunion",
    "distanceintersectionoverunion",
    "generalizedintersectionoverunion",
)
"""Metrics that TorchMetrics offers only where torchvision is installed."""
_DIRECTIONS = {
    "specificity": True,
    "negativepredictivevalue": True,
    "pearsoncorrcoef": True,
    "kendallrankcorrcoef": True,
    "randscore": True,
    "adjustedrandscore": True,
    "adjustedmutualinfoscore": True,
    "normalizedmutualinfoscore": True,
    "eer": False,
}
"""Whether more is better, of classes of TorchMetrics that do not say."""
_NETWORKS = {"model_name_or_path", "feature", "net_type", "generator"}
"""Parameters by which classes of TorchMetrics name a network that they download."""

Described = tuple[dict[str, Any], Any]


def described(metric: Any, judging: Judging, targets: Any, output: Any) -> Described:
    """Describe a metric.

    Args:
        metric: A name; a class or instance of TorchMetrics, a MetricCollection, or a list or dict of metrics, whose
            first one leads; a loss of ``torch.nn``; a scorer or metric function of scikit-learn; a callable; ``(any of
            these, "max" | "min")``; or None for the default of the task.
        judging: How outputs are compared with targets.
        targets: Targets of some samples; None without labels.
        output: The judged output of these samples; None where it is no tensor.

    Returns:
        The description, and what has to travel with it: a callable, a loss, or metrics by name; None for names.

    Raises:
        MetricError: One sentence: what is wrong, and what to give instead.
    """
    direction: str | None = None
    if isinstance(metric, tuple) and len(metric) == 2 and metric[1] in ("max", "min"):
        metric, direction = metric
    elif isinstance(metric, tuple):
        raise MetricError("a metric with a direction is (metric, 'max') or (metric, 'min')")
    if metric is None:
        return named(_default(judging, targets), judging, targets, output), None
    if isinstance(metric, str):
        names = [part.strip() for part in metric.split(",") if part.strip()]
        found = [named(name, judging, targets, output) for name in names]
        return _directed(_with_others(found), direction), None
    return _of_object(metric, judging, targets, output, direction)


def named(name: str, judging: Judging, targets: Any = None, output: Any = None) -> dict[str, Any]:
    """Describe a metric by its name. Raises MetricError where it is unknown or cannot be made for this task."""
    normal = _normal(name)
    if normal != "agreement" and targets is None:
        raise MetricError(f"metric {name!r} needs labels, but --data has none; use metric 'agreement'")
    _refuse_other_task(name, normal, judging, is_text=_is_text(output, targets))
    if normal in _HIGHER and not (normal == "perplexity" and judging.class_dim is None):
        return {
            "name": normal,
            "kind": "built-in",
            "higher_is_better": _HIGHER[normal],
            "percent": normal in ("accuracy", "agreement"),
            "digest": normal,
        }
    cls = torchmetrics_class(name)
    if cls is None and _normal(_ALIASES.get(normal, name)) in _OF_BOXES:
        raise MissingDependency(f"metric {name!r} needs torchvision: pip install 'quanttaas-jupyter[detection]'")
    if cls is None:
        known = {key: found.__name__.lstrip("_") for key, found in _classes().items()} | {key: key for key in _HIGHER}
        hint = did_you_mean(normal, known, "see torchmetrics for names.", titles=known)
        raise MetricError(f"unknown metric {name!r}; {hint} Or give a callable (outputs, targets) -> score")
    _refuse_other_arguments(cls)
    cls, takes, options = _for_task(cls, judging, targets, output)
    higher = _higher_is_better(cls)
    shown = cls.__name__.lstrip("_")
    if higher is None:
        raise MetricError(
            f"TorchMetrics does not say whether a higher {shown} is better; give (metric, 'max' or 'min')"
        )
    return {
        "name": torchmetrics_name(name),
        "kind": "torchmetrics",
        "class": f"{_home_of(cls)}.{_public_name(cls)}",
        "options": options,
        "takes": takes,
        "higher_is_better": higher,
        "percent": any(shown.lower().endswith(part) for part in _PERCENT),
        "digest": f"{shown}{sorted(options.items())}",
    }


def _refuse_other_arguments(cls: Any) -> None:
    """Raise MetricError for a class that compares no outputs with targets, or that downloads a network."""
    if _NETWORKS & set(inspect.signature(cls.__init__).parameters):
        raise MetricError(f"{_public_name(cls)} downloads a network of its own; give an instance of it")
    parameters = [p for name, p in inspect.signature(cls.update).parameters.items() if name != "self"]
    # The classes that choose a task on construction have no update of their own.
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed and needed not in (["preds", "target"], ["preds", "targets"], ["pred", "target"]):
        raise MetricError(
            f"{_public_name(cls)} takes {', '.join(needed)} instead of predictions and targets; give a function "
            "(outputs, targets) -> score that calls it"
        )


def _refuse_other_task(name: str, normal: str, judging: Judging, is_text: bool) -> None:
    """Raise MetricError where a metric of classes meets values, one of values meets scores, or two tasks differ."""
    # Looking up a class imports TorchMetrics, which takes seconds.
    cls = None if normal in _HIGHER else torchmetrics_class(name)
    home = cls.__module__ if cls is not None else ""
    is_of_classes = normal == "accuracy" or home.startswith(
        ("torchmetrics.classification", "torchmetrics.segmentation")
    )
    of_values = ("torchmetrics.regression", "torchmetrics.image", "torchmetrics.audio")
    is_of_values = normal == "r2" or home.startswith(of_values)
    has_classes = judging.labels in ("ids", "one-hot")
    task = judging.task or "none that can be told"
    if is_of_classes and not has_classes:
        raise MetricError(
            f"metric {name!r} compares classes, but the task is {task}: say --task classification or binary"
        )
    if is_of_values and has_classes and judging.scores == "logits":
        raise MetricError(f"metric {name!r} compares values, but the task is {task}: say --task regression")
    of_text = home.startswith(("torchmetrics.text", "torchmetrics.functional.text"))
    if of_text and not is_text and _plain(cls) != "perplexity":
        raise MetricError(
            f"metric {name!r} compares strings: give --postprocess FUNCTION that makes strings of outputs"
        )
    own = next((kind for kind in ("binary", "multiclass", "multilabel") if normal.startswith(kind)), "")
    prefix = {"binary": "binary", "multilabel": "multilabel"}.get(judging.task or "", "multiclass")
    if own and own != prefix:
        raise MetricError(f"metric {name!r} is one of another task: this one is {task}; --task says otherwise")


def _is_text(output: Any, targets: Any) -> bool:
    """Whether outputs are no tensor, and targets are strings: what metrics of texts compare."""
    return output is None and isinstance(targets, list) and all(isinstance(target, str) for target in targets)


def _plain(cls: Any) -> str:
    """Return the normal name of a class without the task in it."""
    name = cls.__name__.removeprefix("Binary").removeprefix("Multiclass").removeprefix("Multilabel")
    return _normal(name)


def torchmetrics_class(name: str) -> Any:
    """Return the class of TorchMetrics that a name means, in any spelling; None where there is none."""
    normal = _normal(name)
    return _classes().get(_normal(_ALIASES.get(normal, name)))


def torchmetrics_name(name: str) -> str:
    """Return the public name of the class that a name means."""
    normal = _normal(name)
    if normal in ("miou", "map"):
        return {"miou": "mIoU", "map": "mAP"}[normal]
    found = torchmetrics_class(name)
    return _public_name(found) if found is not None else name


def _of_object(metric: Any, judging: Judging, targets: Any, output: Any, direction: str | None) -> Described:
    import torch

    # Importing TorchMetrics takes seconds; who gives one of its metrics has imported it.
    if "torchmetrics" in sys.modules or isinstance(metric, (list, Mapping)):
        from torchmetrics import Metric, MetricCollection
    else:
        Metric = MetricCollection = type("Absent", (), {})
    if isinstance(metric, type) and issubclass(metric, Metric):
        return _directed(named(metric.__name__.lstrip("_"), judging, targets, output), direction), None
    if isinstance(metric, (list, Mapping, MetricCollection)) and not isinstance(metric, Metric):
        return _collection(metric, judging, targets, output, direction)
    if isinstance(metric, Metric):
        return _collection({type(metric).__name__.lstrip("_"): metric}, judging, targets, output, direction)
    if isinstance(metric, torch.nn.modules.loss._Loss):
        if getattr(metric, "reduction", "mean") == "sum":
            raise MetricError("a loss whose reduction is 'sum' grows with the data; give one with reduction='mean'")
        return _travelling(metric, "loss", type(metric).__name__, direction or "min")
    if hasattr(metric, "_score_func") and hasattr(metric, "_sign"):
        return _scorer(metric, direction, judging)
    if not callable(metric):
        raise MetricError(f"metric must be a name, a metric or a callable, not a {type(metric).__name__}")
    if getattr(metric, "__module__", "").startswith("sklearn."):
        return _sklearn(metric, {}, direction, judging, _sklearn_takes(metric.__name__, judging))
    return _travelling(metric, "callable", _name_of(metric), direction or "max")


def _collection(metrics: Any, judging: Judging, targets: Any, output: Any, direction: str | None) -> Described:
    from torchmetrics import Metric

    items = list(metrics.items()) if hasattr(metrics, "items") else [(_name_of(item), item) for item in metrics]
    if not items:
        raise MetricError("a collection of metrics is empty; give at least one")
    found, instances = [], {}
    for name, item in items:
        if isinstance(item, str):
            found.append(named(item, judging, targets, output))
            continue
        if not isinstance(item, Metric):
            raise MetricError(
                f"a list of metrics holds names and metrics of TorchMetrics, not a {type(item).__name__}; "
                "give a callable alone"
            )
        instances[name] = item
        found.append(_instance(name, item, judging, direction if not found else None))
    return _with_others(found), instances or None


def _instance(name: str, metric: Any, judging: Judging, direction: str | None) -> dict[str, Any]:
    higher = {"max": True, "min": False}.get(direction or "", _higher_is_better(type(metric)))
    if higher is None:
        raise MetricError(f"{name} does not say whether more is better: give ({name}(...), 'max') or (..., 'min')")
    return {
        "name": name,
        "kind": "instance",
        "takes": _takes(type(metric), judging),
        "higher_is_better": higher,
        "percent": any(_normal(type(metric).__name__).endswith(part) for part in _PERCENT),
        "digest": digest(metric),
    }


def _for_task(cls: Any, judging: Judging, targets: Any, output: Any) -> tuple[Any, str, dict[str, Any]]:
    """Return the class that fits the task, what it takes, and the options that follow from the task."""
    classification = importlib.import_module("torchmetrics.classification")
    prefix = {"binary": "Binary", "multilabel": "Multilabel"}.get(judging.task or "", "Multiclass")
    plain = cls.__name__.removeprefix("Binary").removeprefix("Multiclass").removeprefix("Multilabel")
    fitting = getattr(classification, f"{prefix}{plain}", None)
    if fitting is not None and judging.labels in ("ids", "one-hot"):
        cls = fitting
    takes, options = _takes(cls, judging), {}
    parameters = inspect.signature(cls.__init__).parameters
    known = {
        "num_classes": judging.classes,
        "num_labels": judging.classes,
        "ignore_index": judging.ignore_label,
        "data_range": _data_range(targets),
        "input_format": "index" if takes == "classes-pair" else None,
        "num_outputs": _columns(output),
        "backend": _backend_of(cls),
    }
    for name, value in known.items():
        if name in parameters and value is not None:
            options[name] = value
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "args", "kwargs")
        and name not in options
    ]
    if missing:
        raise MetricError(
            f"metric {_public_name(cls)} needs {', '.join(missing)}, which does not follow from the data: give an "
            f"instance, metric={_home_of(cls)}.{_public_name(cls)}({missing[0]}=...)"
        )
    return cls, takes, options


def _takes(cls: Any, judging: Judging) -> str:
    name, home = _normal(cls.__name__), cls.__module__
    if home.startswith(("torchmetrics.detection", "torchmetrics.text", "torchmetrics.functional.text")):
        return "logits" if name == "perplexity" else "raw"
    if home.startswith("torchmetrics.segmentation"):
        return "classes-pair"
    if home.startswith("torchmetrics.classification"):
        if name.startswith("binary") or (not name.startswith("multi") and judging.task == "binary"):
            return "binary"
        if name.startswith("multilabel"):
            return "multilabel"
        return "classes-pair" if judging.scores == "classes" else "scores"
    if home.startswith(("torchmetrics.regression", "torchmetrics.image", "torchmetrics.audio", "torchmetrics.shape")):
        return "aligned"
    if home.startswith(("torchmetrics.clustering", "torchmetrics.nominal")):
        return "classes-pair"
    return "raw"


def _data_range(targets: Any) -> float | None:
    """Return the range of pictures: 255 for whole numbers, 1 for values between zero and one, or None."""
    import torch

    if not isinstance(targets, torch.Tensor):
        return None
    low, high = float(targets.min()), float(targets.max())
    if not targets.is_floating_point():
        return 255.0
    return 1.0 if low >= 0 and high <= 1 else None


def _backend_of(cls: Any) -> str | None:
    """Return the faster implementation of mean average precision, which is the same to the last digit."""
    if _normal(cls.__name__) != "meanaverageprecision":
        return None
    if importlib.util.find_spec("faster_coco_eval") is None and importlib.util.find_spec("pycocotools") is None:
        raise MissingDependency("metric 'map' needs faster-coco-eval: pip install 'quanttaas-jupyter[detection]'")
    return "faster_coco_eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def _columns(output: Any) -> int | None:
    return int(output.shape[1]) if getattr(output, "ndim", 0) == 2 else 1 if output is not None else None


def _scorer(scorer: Any, direction: str | None, judging: Judging) -> Described:
    """Describe a scorer of scikit-learn by its function, options and sign."""
    wants_scores = any("proba" in str(part) or "decision" in str(part) for part in [scorer._response_method])
    direction = direction or ("max" if scorer._sign > 0 else "min")
    takes = _sklearn_takes(scorer._score_func.__name__, judging, wants_scores)
    return _sklearn(scorer._score_func, dict(scorer._kwargs), direction, judging, takes)


def _sklearn(
    function: Any, options: Mapping[str, Any], direction: str | None, judging: Judging, takes: str
) -> Described:
    from functools import partial

    name = function.__name__
    if direction is None:
        direction = "max" if name.endswith("_score") or name == "roc_auc_score" else "min"
        if not name.endswith(("_score", "_error", "_loss", "_deviance")) and not name.startswith("d2_"):
            raise MetricError(f"{name} does not say whether more is better: give ({name}, 'max') or ({name}, 'min')")
    found, travels = _travelling(partial(function, **options), "sklearn", name, direction)
    return {**found, "takes": takes}, travels


def _sklearn_takes(name: str, judging: Judging, wants_scores: bool = False) -> str:
    if judging.task == "regression" or judging.labels == "values":
        return "aligned"
    if wants_scores or name in ("roc_auc_score", "average_precision_score", "log_loss", "brier_score_loss"):
        return "binary" if judging.task == "binary" else "multilabel" if judging.task == "multilabel" else "scores"
    return "classes-pair"


def _travelling(item: Any, kind: str, name: str, direction: str) -> Described:
    found = {
        "name": name,
        "kind": kind,
        "higher_is_better": direction == "max",
        "percent": False,
        "digest": digest(item),
    }
    return found, item


def pickled(item: Any) -> bytes:
    """Return what travels with a metric as a pickle with its local code. Raises MetricError."""
    try:
        return dumps(item)
    except Exception as error:
        raise MetricError(f"the metric cannot be sent: {first_line(error)}") from None


def _with_others(found: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = found
    names = [metric["name"] for metric in found]
    if len(set(names)) < len(names):
        raise MetricError(f"metrics have the same name: {', '.join(names)}; give a dict of names and metrics")
    return {**first, "others": others} if others else first


def _directed(found: dict[str, Any], direction: str | None) -> dict[str, Any]:
    return found if direction is None else {**found, "higher_is_better": direction == "max"}


def _default(judging: Judging, targets: Any) -> str:
    if targets is None:
        raise MetricError(
            "--data has no labels: give (inputs, targets) batches, or use metric 'agreement', "
            "which compares with the original model"
        )
    if judging.task is None:
        raise MetricError(
            "what these targets are compared with cannot be told: say --task, --output or --labels, or give a metric "
            "that takes (outputs, targets)"
        )
    return _OF_TASK[judging.task]


def _name_of(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    name = getattr(metric, "__name__", type(metric).__name__)
    return "metric" if name == "<lambda>" else str(name).lstrip("_")


@lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    return {_normal(name): cls for name, cls in _named_classes()}


def _named_classes() -> Iterator[tuple[str, Any]]:
    from torchmetrics import Metric

    seen: set[str] = set()
    for module in _MODULES:
        found = importlib.import_module(module)
        for name in getattr(found, "__all__", dir(found)):
            cls = getattr(found, name, None)
            if isinstance(cls, type) and issubclass(cls, Metric) and cls is not Metric and name not in seen:
                seen.add(name)
                yield name, cls


@lru_cache(maxsize=1)
def _homes() -> dict[Any, tuple[str, str]]:
    """Where each class is public, and under which name; some have another one inside."""
    from torchmetrics import Metric

    found: dict[Any, tuple[str, str]] = {}
    for module in _MODULES:
        for name, cls in vars(importlib.import_module(module)).items():
            if isinstance(cls, type) and issubclass(cls, Metric):
                found.setdefault(cls, (module, name))
    return found


def _home_of(cls: Any) -> str:
    return _homes().get(cls, (str(cls.__module__), ""))[0]


def _public_name(cls: Any) -> str:
    return _homes().get(cls, ("", str(cls.__name__)))[1]


def _higher_is_better(cls: Any) -> bool | None:
    direct = getattr(cls, "higher_is_better", None)
    if isinstance(direct, bool):
        return direct
    plain = _plain(cls)
    if plain in _DIRECTIONS:
        return _DIRECTIONS[plain]
    tasks = importlib.import_module("torchmetrics.classification")
    # The classes that choose a task on construction say nothing; the ones they choose from do.
    for task in ("Multiclass", "Binary", "Multilabel"):
        chosen = getattr(tasks, f"{task}{cls.__name__}", None)
        if chosen is not None and isinstance(chosen.higher_is_better, bool):
            return bool(chosen.higher_is_better)
    return None


def _normal(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
