"""Result of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .artifact import Signature

INTERIM = "\x03"
"""First character of a line by which an evaluation tells what it measured so far, as JSON."""

Ranking = tuple[tuple[str, float], ...]
"""Layers with the signal to noise of the outputs in decibels when one layer alone is changed; the worst first."""


@dataclass(frozen=True)
class StageResult:
    """What a stage made and measured.

    Attributes:
        blobs: SHA-256 digests of what it wrote, by name, such as ``model``, ``artifact`` and ``graph``.
        measurements: Numbers for metrics and for later stages, by name.
        warnings: Sentences for the user, also those of the stages it builds on.
        choices: Choices that techniques made, by name, also those of the stages it builds on.
        suffix: Ending of the artifact's file name; empty if it wrote no artifact.
        kept: Names of the artifact's layers that are not quantized.
        signature: Inputs and outputs of the artifact.
        modules: Class names of the modules that the artifact was built from, by path.
        weights: Numbers of their parameters, by kind of layer.
        ranking: Ranking of layers; None if it ranked none.
        outputs: Reference of the outputs that it wrote for comparisons; None if it wrote none.
        began: When it began, in seconds since the epoch.
        seconds: How long it took.
        peak_bytes: Largest memory of its process; 0 if unknown.
    """

    blobs: Mapping[str, str] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    kept: tuple[str, ...] = ()
    signature: Signature = field(default_factory=Signature)
    modules: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    ranking: Ranking | None = None
    outputs: Mapping[str, Any] | None = None
    began: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> StageResult:
        """Return the result that the cache or a worker holds as JSON."""
        about, ranking = stored.get("about", {}), stored.get("ranking")
        return cls(
            blobs=stored["blobs"],
            measurements=stored.get("facts", {}),
            warnings=tuple(stored.get("warnings", ())),
            choices=stored.get("choices", {}),
            suffix=stored.get("suffix", ""),
            kept=tuple(stored.get("kept", ())),
            signature=Signature.of(about),
            modules=about.get("modules", {}),
            weights=about.get("weights", {}),
            ranking=None if ranking is None else tuple((layer, decibels) for layer, decibels in ranking),
            outputs=stored.get("outputs"),
            began=stored.get("began", 0.0),
            seconds=stored.get("seconds", 0.0),
            peak_bytes=stored.get("peak_bytes", 0),
        )

    def stored(self) -> dict[str, Any]:
        """Return the result as JSON for the cache and for workers."""
        made: dict[str, Any] = {
            "blobs": dict(self.blobs),
            "facts": dict(self.measurements),
            "warnings": list(self.warnings),
            "choices": dict(self.choices),
        }
        if self.suffix:
            about = {**self.signature.stored(), "modules": dict(self.modules), "weights": dict(self.weights)}
            made |= {"kept": list(self.kept), "suffix": self.suffix, "about": about}
        if self.ranking is not None:
            made["ranking"] = [[layer, decibels] for layer, decibels in self.ranking]
        if self.outputs is not None:
            made["outputs"] = dict(self.outputs)
        if self.peak_bytes:
            made["peak_bytes"] = self.peak_bytes
        return {**made, "began": self.began, "seconds": self.seconds}
