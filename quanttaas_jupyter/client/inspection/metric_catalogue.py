"""What TorchMetrics has: its classes by name in any spelling, where they are public, and which direction is better."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

_ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "acc": ("accuracy", {}),
    "f1": ("F1Score", {}),
    "auc": ("AUROC", {}),
    "rocauc": ("AUROC", {}),
    "rocaucscore": ("AUROC", {}),
    "map": ("MeanAveragePrecision", {}),
    "miou": ("JaccardIndex", {}),
    "iou": ("JaccardIndex", {}),
    "mse": ("MeanSquaredError", {}),
    "rmse": ("MeanSquaredError", {"squared": False}),
    "rootmeansquarederror": ("MeanSquaredError", {"squared": False}),
    "mae": ("MeanAbsoluteError", {}),
    "mape": ("MeanAbsolutePercentageError", {}),
    "psnr": ("PeakSignalNoiseRatio", {}),
    "ssim": ("StructuralSimilarityIndexMeasure", {}),
    "mcc": ("MatthewsCorrCoef", {}),
    "kappa": ("CohenKappa", {}),
    "ece": ("CalibrationError", {}),
    "pearson": ("PearsonCorrCoef", {}),
    "spearman": ("SpearmanCorrCoef", {}),
    "dice": ("DiceScore", {}),
}
"""Short names, each with a class and options of it."""
_SHOWN = {
    "miou": "mIoU",
    "map": "mAP",
    "rmse": "RMSE",
    "rootmeansquarederror": "RMSE",
}
"""Names under which these are reported, rather than that of their class."""
_AVERAGES = ("macro", "micro", "weighted")
_TOP = re.compile(r"(?:accuracy)?top(\d+)(?:accuracy|acc)?")
_MODULES = (
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
    # Its own classes of pictures, sounds and texts are deprecated ones, with other defaults than those above.
    "torchmetrics",
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
_DIRECTIONS = {
    "specificity": True,
    "negativepredictivevalue": True,
    "pearsoncorrcoef": True,
    "kendallrankcorrcoef": True,
    "randscore": True,
    "adjustedrandscore": True,
    "adjustedmutualinfoscore": True,
    "normalizedmutualinfoscore": True,
    "precisionatfixedrecall": True,
    "recallatfixedprecision": True,
    "sensitivityatspecificity": True,
    "specificityatsensitivity": True,
    "eer": False,
    "tweediedeviancescore": False,
}
"""Whether more is better, of classes of TorchMetrics that do not say."""
_TURNED = {"spectraldistortionindex": False}
"""The same of classes that say otherwise than their formula: this one is 0 where nothing is distorted."""


@dataclass(frozen=True)
class Spelling:
    """What a name means.

    Attributes:
        normal: Normal name of a class of TorchMetrics, or of a built-in metric.
        options: Options of the class that the name says, such as ``average``.
        shown: The name under which it is reported; empty for that of the class.
    """

    normal: str
    options: dict[str, Any] = field(default_factory=dict)
    shown: str = ""


def normal_name(name: str) -> str:
    """Return a name without case, underscores, hyphens, spaces and signs."""
    return re.sub(r"[-_ @]", "", name.lower())


def spelt(name: str) -> Spelling:
    """Return what a name means, whatever its spelling: ``f1_macro``, ``rmse``, ``top5``."""
    normal = normal_name(name)
    if (top := _TOP.fullmatch(normal)) and int(top[1]) > 0:
        return Spelling("accuracy", {"top_k": int(top[1])} if int(top[1]) > 1 else {}, f"top-{top[1]} accuracy")
    for average in _AVERAGES:
        rest = normal.removesuffix(average).removeprefix(average)
        if rest != normal and rest:
            inner = spelt(rest)
            return Spelling(inner.normal, {**inner.options, "average": average})
    if normal in _ALIASES:
        title, options = _ALIASES[normal]
        return Spelling(normal_name(title), options, _SHOWN.get(normal, ""))
    return Spelling(normal)


def torchmetrics_class(name: str) -> Any:
    """Return the class of TorchMetrics that a name means, in any spelling; None where there is none."""
    return known_classes().get(spelt(name).normal)


def torchmetrics_name(name: str) -> str:
    """Return the name under which the class that a name means is reported."""
    spelling = spelt(name)
    found = known_classes().get(spelling.normal)
    return spelling.shown or (public_name(found) if found is not None else name)


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


def home_of(cls: Any) -> str:
    """Return the module in which a class is public."""
    return _homes().get(cls, (str(cls.__module__), ""))[0]


def public_name(cls: Any) -> str:
    """Return the name by which a class is public."""
    return _homes().get(cls, ("", str(cls.__name__)))[1].lstrip("_")


def plain_title(cls: Any) -> str:
    """Return the name of a class without the task in it."""
    name = str(cls.__name__).lstrip("_")
    return name.removeprefix("Binary").removeprefix("Multiclass").removeprefix("Multilabel")


def of_task(cls: Any, prefix: str) -> Any:
    """Return the class of classification that does for a task what a class says; None where there is none."""
    return getattr(importlib.import_module("torchmetrics.classification"), f"{prefix}{plain_title(cls)}", None)


def default_average(cls: Any) -> str | None:
    """Return how the public class that chooses a task averages classes; None where it averages none.

    Those that give one number a class by default are averaged evenly.
    """
    chooser = getattr(importlib.import_module("torchmetrics.classification"), plain_title(cls), None)
    if chooser is None or cls is not chooser:
        return None
    parameter = inspect.signature(chooser.__new__).parameters.get("average")
    return None if parameter is None else parameter.default or "macro"


def higher_is_better(cls: Any) -> bool | None:
    """Return whether more of a class of TorchMetrics is better; None if nothing says so."""
    plain = normal_name(plain_title(cls))
    direct = _TURNED.get(plain, getattr(cls, "higher_is_better", None))
    if isinstance(direct, bool):
        return direct
    if plain in _DIRECTIONS:
        return _DIRECTIONS[plain]
    # The classes that choose a task on construction say nothing; the ones they choose from do.
    for task in ("Multiclass", "Binary", "Multilabel"):
        chosen = of_task(cls, task)
        if chosen is not None and isinstance(chosen.higher_is_better, bool):
            return bool(chosen.higher_is_better)
    return None


def is_percent(name: str) -> bool:
    """Return whether a class of TorchMetrics gives shares, which are shown in percent."""
    return any(normal_name(name).endswith(part) for part in _PERCENT)
