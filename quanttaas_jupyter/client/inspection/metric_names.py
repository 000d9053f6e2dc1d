"""Metrics by name: built-in ones, and classes of TorchMetrics with what follows from the task."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ...core.errors import MetricError, MissingDependency, did_you_mean
from ...core.understanding import Judging

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


def named(name: str, judging: Judging, targets: Any = None, output: Any = None) -> dict[str, Any]:
    """Describe a metric by its name. Raises MetricError where it is unknown or cannot be made for this task."""
    normal = normal_name(name)
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
    if cls is None and normal_name(_ALIASES.get(normal, name)) in _OF_BOXES:
        raise MissingDependency(f"metric {name!r} needs torchvision: pip install 'quanttaas-jupyter[detection]'")
    if cls is None:
        known = {key: found.__name__.lstrip("_") for key, found in known_classes().items()} | {
            key: key for key in _HIGHER
        }
        hint = did_you_mean(normal, known, "see torchmetrics for names.", titles=known)
        raise MetricError(f"unknown metric {name!r}; {hint} Or give a callable (outputs, targets) -> score")
    _refuse_other_arguments(cls)
    cls, takes, options = _for_task(cls, judging, targets, output)
    higher = higher_is_better(cls)
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
        "percent": is_percent(shown),
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
    return normal_name(name)


def torchmetrics_class(name: str) -> Any:
    """Return the class of TorchMetrics that a name means, in any spelling; None where there is none."""
    normal = normal_name(name)
    return known_classes().get(normal_name(_ALIASES.get(normal, name)))


def torchmetrics_name(name: str) -> str:
    """Return the public name of the class that a name means."""
    normal = normal_name(name)
    if normal in ("miou", "map"):
        return {"miou": "mIoU", "map": "mAP"}[normal]
    found = torchmetrics_class(name)
    return _public_name(found) if found is not None else name


def _for_task(cls: Any, judging: Judging, targets: Any, output: Any) -> tuple[Any, str, dict[str, Any]]:
    """Return the class that fits the task, what it takes, and the options that follow from the task."""
    classification = importlib.import_module("torchmetrics.classification")
    prefix = {"binary": "Binary", "multilabel": "Multilabel"}.get(judging.task or "", "Multiclass")
    plain = cls.__name__.removeprefix("Binary").removeprefix("Multiclass").removeprefix("Multilabel")
    fitting = getattr(classification, f"{prefix}{plain}", None)
    if fitting is not None and judging.labels in ("ids", "one-hot"):
        cls = fitting
    takes, options = takes_of(cls, judging), {}
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


def takes_of(cls: Any, judging: Judging) -> str:
    """Return how a class of TorchMetrics takes outputs and targets; see ``techniques.evaluate.metrics.taken``."""
    name, home = normal_name(cls.__name__), cls.__module__
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
    if normal_name(cls.__name__) != "meanaverageprecision":
        return None
    if importlib.util.find_spec("faster_coco_eval") is None and importlib.util.find_spec("pycocotools") is None:
        raise MissingDependency("metric 'map' needs faster-coco-eval: pip install 'quanttaas-jupyter[detection]'")
    return "faster_coco_eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def _columns(output: Any) -> int | None:
    return int(output.shape[1]) if getattr(output, "ndim", 0) == 2 else 1 if output is not None else None


@lru_cache(maxsize=1)
def known_classes() -> dict[str, Any]:
    """Return the classes of TorchMetrics by normal name."""
    return {normal_name(name): cls for name, cls in _named_classes()}


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


def higher_is_better(cls: Any) -> bool | None:
    """Return whether more of a class of TorchMetrics is better; None if nothing says so."""
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


def is_percent(name: str) -> bool:
    """Return whether a class of TorchMetrics gives shares, which are shown in percent."""
    return any(normal_name(name).endswith(part) for part in _PERCENT)


def normal_name(name: str) -> str:
    """Return a name without case, underscores, hyphens and spaces."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
