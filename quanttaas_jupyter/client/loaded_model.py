"""Compressed models as callables in the kernel."""

from __future__ import annotations

import inspect
import keyword
from typing import TYPE_CHECKING, Any

from ..bundle.structure import TENSOR, flatten, is_one_argument, unflatten
from ..core.errors import DataError

if TYPE_CHECKING:
    from ..core.records.artifact import Signature
    from ..techniques.runtimes import Session


class LoadedModel:
    """Compressed model that is called like the original module, and returns torch tensors in the same structure."""

    def __init__(self, session: Session, signature: Signature, name: str) -> None:
        self._session, self._signature, self._name = session, signature, name
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(_argument(name, index), kind) for index, name in enumerate(signature.input_names)]
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the artifact on CPU tensors; the first dimension is the batch.

        Raises:
            DataError: The inputs are nested differently from those of the study.
        """
        import torch

        wanted = self._signature.inputs
        given = self._arranged(args, kwargs)
        if _is_each(wanted):
            leaves, structure = [("input", torch.stack(list(given)))], wanted["argument"]
        else:
            leaves, structure = flatten(given)
        if structure != (wanted["argument"] if is_one_argument(wanted) else wanted):
            names = ", ".join(self._signature.input_names)
            raise DataError(f"{self._name} takes {len(self._signature.input_names)} inputs ({names}), like the model")
        arrays = [torch.as_tensor(leaf).detach().cpu().numpy() for _, leaf in leaves]
        outputs = [torch.from_numpy(array) for array in self._session(arrays)]
        return unflatten(self._signature.outputs, outputs)

    def _arranged(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments nested like the study's inputs."""
        wanted = self._signature.inputs
        if is_one_argument(wanted) and len(args) == 1:
            return args[0]
        if isinstance(wanted, dict) and "dict" in wanted:
            keys = list(wanted["dict"])
            return {key: {**dict(zip(keys, args, strict=False)), **kwargs}.get(key) for key in keys}
        if wanted == TENSOR and len(args) == 1:
            return args[0]
        if isinstance(wanted, list):
            return list(args) if wanted[0] == "list" else args
        return args

    def eval(self) -> LoadedModel:
        """Return the model itself, for code that calls ``model.eval()``: an artifact has no training mode."""
        return self

    def __repr__(self) -> str:
        return f"<{self._name}: call it with {', '.join(self._signature.input_names)}>"


def _is_each(structure: Any) -> bool:
    """Whether a model takes a list of one tensor a sample."""
    return is_one_argument(structure) and isinstance(structure["argument"], dict) and "each" in structure["argument"]


def _argument(name: str, index: int) -> str:
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"input{index}"
