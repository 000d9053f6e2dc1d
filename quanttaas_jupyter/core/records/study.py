"""Record of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..understanding import Understanding

FORMAT = 1
"""Version of the record, for later readers; nothing reads it yet."""


@dataclass(frozen=True)
class StudyRecord:
    """A study as it was submitted: ``study.json``.

    Attributes:
        id: Its id.
        name: Its name in lists.
        created: When it was submitted, in seconds since the epoch.
        cluster: Name of the cluster that it was submitted to.
        recipe: The recipe as JSON; ``Recipe.parse`` reads it.
        model: The model: its ``class``, ``digest`` and ``blob``, for views ``params`` and ``bytes``, and ``portable``
            if it was sent as an exported program.
        metric: Description of the metric, as ``techniques.evaluate`` reads it.
        who: User who submitted it.
        versions: Versions of Python and libraries in the kernel.
        understanding: What the look before the study found out; None in studies of versions that did not look.
        notes: Sentences on what was found and where the data comes from.
        data: References of the data sets, by role: ``eval``, ``calibration``, ``train``, ``guide``.
        postprocess: Reference of the notebook's own postprocessing, if there is one.
        recover: Reference of the notebook's own recovery, if there is one.
        format: Version of the record.
    """

    id: str
    name: str
    created: float
    cluster: str
    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    metric: Mapping[str, Any]
    who: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    understanding: Understanding | None = None
    notes: tuple[str, ...] = ()
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    postprocess: Mapping[str, str] | None = None
    recover: Mapping[str, str] | None = None
    format: int = FORMAT

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> StudyRecord:
        """Return the record that ``study.json`` holds.

        Raises:
            KeyError: The JSON lacks something that every version wrote.
        """
        understanding = stored.get("understanding")
        return cls(
            id=stored["id"],
            name=stored["name"],
            created=stored["created"],
            cluster=stored["cluster"],
            recipe=stored["recipe"],
            model=stored["model"],
            metric=stored["metric"],
            who=str(stored.get("who", "")),
            versions=stored.get("versions", {}),
            understanding=Understanding.of(understanding) if understanding else None,
            notes=tuple(stored.get("notes", ())),
            data=stored.get("data", {}),
            postprocess=stored.get("postprocess"),
            recover=stored.get("recover"),
            format=stored.get("format", FORMAT),
        )

    def stored(self) -> dict[str, Any]:
        """Return the record as JSON for ``study.json``."""
        understanding = {"understanding": self.understanding.stored()} if self.understanding else {}
        functions = {"postprocess": self.postprocess, "recover": self.recover}
        return {
            "format": self.format,
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "who": self.who,
            "cluster": self.cluster,
            "versions": dict(self.versions),
            "recipe": dict(self.recipe),
            "model": dict(self.model),
            "metric": dict(self.metric),
            **understanding,
            "notes": list(self.notes),
            **{name: dict(function) for name, function in functions.items() if function},
            "data": dict(self.data),
        }

    @property
    def goal(self) -> Mapping[str, Any]:
        """The recipe's goal: ``minimize`` and ``max_drop``."""
        goal: Mapping[str, Any] = self.recipe["goal"]
        return goal
