"""Artifact of a trial, and the signature of a file: its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a file.

    Attributes:
        inputs: Structure of the model's inputs, as ``bundle.structure`` writes it.
        input_names: Names of the file's inputs, in order.
        outputs: Structure of the outputs.
        fixed_batch: The only number of samples that the file takes; None if it takes any.
        why_fixed: Sentence that says why; empty if the file takes any.
    """

    inputs: Any = None
    input_names: tuple[str, ...] = ()
    outputs: Any = None
    fixed_batch: int | None = None
    why_fixed: str = ""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Signature:
        """Return the signature that JSON holds."""
        return cls(
            inputs=stored.get("inputs"),
            input_names=tuple(stored.get("input_names", ())),
            outputs=stored.get("outputs"),
            fixed_batch=stored.get("fixed_batch"),
            why_fixed=stored.get("why_fixed", ""),
        )

    def structures(self) -> dict[str, Any]:
        """Return the structures of inputs and outputs, and the names of the inputs, as JSON."""
        return {"inputs": self.inputs, "input_names": list(self.input_names), "outputs": self.outputs}

    def stored(self) -> dict[str, Any]:
        """Return the signature as JSON."""
        fixed = {"fixed_batch": self.fixed_batch, "why_fixed": self.why_fixed}
        return {**self.structures(), **(fixed if self.fixed_batch else {})}


@dataclass(frozen=True)
class Artifact:
    """File that a trial ships.

    Attributes:
        blob: SHA-256 digest of its content.
        size: Its size in bytes.
        filename: Name under which it is saved, with the suffix of its runtime.
        runtime: Name of its runtime.
        kept: Names of layers that stayed in high precision, the first ones of many.
        choices: Choices that techniques made, by name.
        signature: Its inputs and outputs.
    """

    blob: str
    size: int
    filename: str = ""
    runtime: str = ""
    kept: tuple[str, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    signature: Signature = field(default_factory=Signature)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Artifact:
        """Return the artifact that an event holds."""
        return cls(
            blob=stored["blob"],
            size=stored["size"],
            filename=stored.get("filename", ""),
            runtime=stored.get("runtime", ""),
            kept=tuple(stored.get("kept", ())),
            choices=stored.get("choices", {}),
            signature=Signature.of(stored.get("about", {})),
        )

    def stored(self) -> dict[str, Any]:
        """Return the artifact as JSON for an event."""
        return {
            "blob": self.blob,
            "size": self.size,
            "filename": self.filename,
            "runtime": self.runtime,
            "kept": list(self.kept),
            "choices": dict(self.choices),
            "about": self.signature.stored(),
        }
