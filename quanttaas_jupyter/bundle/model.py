"""Conversion of a model in memory into a blob and back, with a digest that is equal in all kernels."""

from __future__ import annotations

import contextlib
import copy
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from ..core.errors import ModelError
from ..core.failures import first_line
from ..core.scratch import PREFIX, remove_abandoned, usable
from .digest import digest
from .local_code import pickled_by_value

if TYPE_CHECKING:
    import torch


_CAPTURE_HOME = "transformers.utils.output_capturing"
_CAPTURE_MARK = "_output_capturing_hooks_installed"
"""Where the hooks come from that ``transformers`` 5 catches hidden states with, and how it marks a model with them."""


@dataclass(frozen=True)
class ModelSnapshot:
    """Copy of a model at the time of submission.

    Attributes:
        path: File of the pickled module with its tensors, which goes with this object; classes of the notebook and of
            local files are included by value.
        digest: SHA-256 digest of the module's code, configuration and tensors.
        description: ``class`` name, number of ``params`` and size in ``bytes``, for views.
    """

    path: Path
    digest: str
    description: dict[str, Any]

    def __post_init__(self) -> None:
        weakref.finalize(self, self.path.unlink, missing_ok=True)

    @property
    def bytes(self) -> int:
        """Size of the file in bytes."""
        return self.path.stat().st_size


def snapshot(model: Any, scratch: Path | None = None) -> ModelSnapshot:
    """Copy a model without changing it: mode, device, gradients and random state stay as they are.

    The copy is a file below ``scratch``, by default the system's folder for temporary files: it takes no memory.

    Raises:
        ModelError: It is no ``torch.nn.Module``, or it cannot be pickled; the message names the member.
    """
    module = unwrapped(model)
    parameters = list(module.parameters())
    description = {
        "class": type(module).__name__,
        "params": sum(parameter.numel() for parameter in parameters),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *module.buffers()]),
    }
    folder = usable(scratch)
    remove_abandoned(folder)
    path = folder / f"{PREFIX}model-{uuid.uuid4().hex}"
    try:
        with _without_capture(module):
            save(_folded(module), path)
            return ModelSnapshot(path, digest(module), description)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def unwrapped(model: Any) -> torch.nn.Module:
    """Return the plain module inside ``torch.compile``, DataParallel or DistributedDataParallel.

    Raises:
        ModelError: The object is a TorchScript module, a class, or no ``torch.nn.Module``.
    """
    import torch

    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("this is a TorchScript module, which cannot be pruned; give the nn.Module it was made from")
    if not isinstance(model, torch.nn.Module):
        what = (
            f"the class {model.__name__}; give an instance of it" if isinstance(model, type) else type(model).__name__
        )
        raise ModelError(f"the model must be a torch.nn.Module, but this is {what}")
    for wrapper in ("_orig_mod", "module"):
        inner = getattr(model, wrapper, None)
        is_wrapper = wrapper == "_orig_mod" or isinstance(
            model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
        )
        if isinstance(inner, torch.nn.Module) and is_wrapper:
            return unwrapped(inner)
    return model


@contextlib.contextmanager
def _without_capture(module: torch.nn.Module) -> Iterator[None]:
    """Take off what ``transformers`` hangs on a model that was asked for hidden states, and put it back.

    These hooks cannot be pickled; the model installs them anew where its copy needs them.
    """
    taken: list[tuple[Any, str, Any]] = []
    for child in module.modules():
        hooks = vars(child)["_forward_hooks"]
        kept = type(hooks)(
            (key, hook) for key, hook in hooks.items() if getattr(hook, "__module__", None) != _CAPTURE_HOME
        )
        if len(kept) < len(hooks):
            taken.append((child, "_forward_hooks", hooks))
            vars(child)["_forward_hooks"] = kept
        if _CAPTURE_MARK in vars(child):
            taken.append((child, _CAPTURE_MARK, vars(child).pop(_CAPTURE_MARK)))
    try:
        yield
    finally:
        for child, name, value in taken:
            vars(child)[name] = value


def _folded(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module with computed parametrizations (weight norm, orthogonal weights), which cannot be pickled."""
    import torch
    from torch.nn.utils import parametrize

    if not any(parametrize.is_parametrized(child) for child in module.modules()):
        return module
    copied = copy.deepcopy(module)
    parametrized: list[Any] = [child for child in copied.modules() if parametrize.is_parametrized(child)]
    for child in parametrized:
        values = {name: getattr(child, name).detach().clone() for name in child.parametrizations}
        del child.parametrizations
        # The copy shares its generated class with the original: ``remove_parametrizations`` would break both.
        child.__class__ = type(child).__bases__[0]
        for name, value in values.items():
            child.register_parameter(name, torch.nn.Parameter(value))
    return copied


def save(module: torch.nn.Module, path: Path) -> None:
    """Write a pickled module, together with the local code it needs, tensor by tensor.

    Raises:
        ModelError: A member cannot be pickled; the message names it.
    """
    import torch

    try:
        # By its name the writer would call the file inside of it, and equal models would have other bytes.
        with pickled_by_value(), path.open("wb") as stream:
            torch.save(module, stream, pickle_module=_Pickle)
    except OSError as error:
        raise ModelError(f"the model cannot be copied to {path.parent}: {error.strerror or error}") from None
    except Exception as error:
        culprit = _unpicklable_member(module)
        where = f"{culprit} cannot be pickled" if culprit else "it cannot be pickled"
        raise ModelError(
            f"the model cannot be sent: {where} ({first_line(error)}); "
            "remove that member before compressing, or make it in forward()"
        ) from None


def load(path: Path) -> torch.nn.Module:
    """Load a pickled module onto the CPU in eval mode; its tensors are mapped, and copied where they are changed.

    This runs code, so only use it on data that this user submitted.
    """
    import torch

    model: torch.nn.Module = torch.load(str(path), map_location="cpu", weights_only=False, mmap=True)
    return model.eval()


class _Pickle:
    """Pickle module for ``torch.save`` that uses cloudpickle."""

    Pickler = cloudpickle.Pickler
    dump = staticmethod(cloudpickle.dump)
    dumps = staticmethod(cloudpickle.dumps)


def _unpicklable_member(module: torch.nn.Module) -> str:
    members = [(path, name, value) for path, child in module.named_modules() for name, value in vars(child).items()]
    with pickled_by_value():
        for path, name, value in members:
            if name in ("_parameters", "_buffers", "_modules") or not _fails(value):
                continue
            where = ".".join(part for part in ("model", path, name) if part)
            return f"{where} (a {type(value).__module__}.{type(value).__qualname__})"
    return ""


def _fails(value: Any) -> bool:
    with contextlib.suppress(Exception):
        cloudpickle.dumps(value)
        return False
    return True
