"""Configuration of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import catalogue


@dataclass(frozen=True)
class Pruning:
    """Pruning of a trial, as the recipe or a search chose it; ``core.recipe.Prune`` explains and validates the fields.

    The method may be one that only a newer version knows.
    """

    method: str = "structured"
    amount: float = 0.0
    importance: str = "auto"
    scope: str = "global"
    spread: float = 0.0

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Pruning:
        """Return the pruning that a stored configuration holds."""
        return cls(
            method=str(stored.get("method", cls.method)),
            amount=float(stored.get("amount", cls.amount)),
            importance=str(stored.get("importance", cls.importance)),
            scope=str(stored.get("scope", cls.scope)),
            spread=float(stored.get("spread", cls.spread)),
        )

    def stored(self) -> dict[str, Any]:
        """Return the pruning as JSON."""
        return asdict(self)

    @property
    def name(self) -> str:
        """The part of a trial's name that describes this pruning; empty if nothing is pruned."""
        if self.amount == 0:
            return ""
        if catalogue.follows_pattern(self.method):
            return self.method
        prefix = "prune" if self.method == "structured" else self.method
        return f"{prefix}{round(self.amount * 100, 4):g}"


@dataclass(frozen=True)
class TrialConfig:
    """What a trial does to the model.

    Attributes:
        prune: The pruning; None if the model is not pruned.
        quantize: The quantization; ``none`` for none, empty if an event does not say.
        runtime: The runtime; empty if an event does not say.
        recover: Recovery that a search chose; empty for the recipe's.
        effort: Length of the recovery, relative to the default.
        keep: Number of sensitive layers that stay in high precision; None where the technique decides.
    """

    prune: Pruning | None
    quantize: str
    runtime: str
    recover: str = ""
    effort: float = 1.0
    keep: int | None = None

    @classmethod
    def baseline(cls, runtime: str) -> TrialConfig:
        """Return the configuration of the baseline in a runtime."""
        return cls(None, "none", runtime)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> TrialConfig:
        """Return the configuration that an event or the cache holds."""
        prune = stored.get("prune")
        return cls(
            prune=Pruning.of(prune) if prune else None,
            quantize=str(stored.get("quantize", "")),
            runtime=str(stored.get("runtime", "")),
            recover=str(stored.get("recover", "")),
            effort=float(stored.get("effort", 1.0)),
            keep=stored.get("keep"),
        )

    def stored(self) -> dict[str, Any]:
        """Return the configuration as JSON; what only a search chooses is left out where it chose nothing."""
        chosen: dict[str, Any] = {"recover": self.recover} if self.recover else {}
        chosen |= {"effort": self.effort} if self.effort != 1 else {}
        chosen |= {"keep": self.keep} if self.keep is not None else {}
        prune = self.prune.stored() if self.prune else None
        return {"prune": prune, "quantize": self.quantize, "runtime": self.runtime, **chosen}

    @property
    def is_baseline(self) -> bool:
        """Whether it changes nothing: the unchanged model in its runtime."""
        return self.prune is None and self.quantize == "none"

    @property
    def amount(self) -> float:
        """Share of the model's parameters to remove, in [0, 1)."""
        return self.prune.amount if self.prune else 0.0

    @property
    def spread(self) -> float:
        """How strongly the measured sensitivity of a layer changes its amount."""
        return self.prune.spread if self.prune else 0.0
