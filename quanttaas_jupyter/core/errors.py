"""Errors that a user can fix; each message is short and says what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def did_you_mean(
    name: object, known: Iterable[str], otherwise: str = "", titles: Mapping[str, str] | None = None
) -> str:
    """Return ``did you mean 'int8'?`` for the known name that is nearest to a misspelled one.

    Args:
        name: What was given.
        known: The names that exist.
        otherwise: What to return if no name is near.
        titles: What to show in place of some of the names.
    """
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {(titles or {}).get(near[0], near[0])!r}?" if near else otherwise


class QuantTaaSError(Exception):
    """Base class of all errors that a user can fix."""


class RecipeError(QuantTaaSError, ValueError):
    """The recipe asks for something unknown, impossible or not implemented yet."""


class ModelError(QuantTaaSError, TypeError):
    """The object given as a model cannot be compressed."""


class DataError(QuantTaaSError, ValueError):
    """The data cannot be read, is empty, or does not fit the model."""


class MetricError(QuantTaaSError, ValueError):
    """The metric does not exist, or cannot be computed from these outputs and targets."""


class MissingDependency(QuantTaaSError, ImportError):
    """An optional package is not installed; the message holds the pip command."""


class StoreError(QuantTaaSError, OSError):
    """The store cannot be reached, read or written."""


class Unreadable(QuantTaaSError, ValueError):
    """One thing in the store is malformed, damaged or no plain file; the rest of the store can be read."""


class DamagedBlob(Unreadable, StoreError):
    """The bytes of a blob do not match its name; it was set aside, so that the next submission or resume heals it."""


class ClusterError(QuantTaaSError, ConnectionError):
    """The cluster is not configured, cannot be reached, refuses the token, or does not fit this environment."""


class NotFound(QuantTaaSError, KeyError):
    """The study, trial or blob does not exist."""

    def __str__(self) -> str:
        # KeyError would show the repr of the sentence.
        return str(self.args[0]) if self.args else ""


class NotTrusted(QuantTaaSError, PermissionError):
    """The action would run another person's code; it needs ``trusted=True``."""


class StudyIsBusy(QuantTaaSError):
    """The action is not allowed while the study runs or waits for an engine."""


class StudyFailed(QuantTaaSError, RuntimeError):
    """The study ended without a measured trial, was cancelled, or was interrupted."""


class WaitTimeout(QuantTaaSError, TimeoutError):
    """The study did not end within the time given to ``wait``."""
