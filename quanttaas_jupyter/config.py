"""One configuration for kernel, server and engine; the environment overrides the file.

The file is ``config.yaml`` in the user's configuration folder (``QUANTTAAS_CONFIG`` names another one)::

    store: ~/studies
    engine:
      slots: 4
      idle_minutes: 30
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import QuantTaaSError

_APP = "quanttaas"


class EngineConfig(BaseModel):
    """The resident engine of this machine.

    Attributes:
        slots: Stages that run at once; None for one a physical core, as far as memory allows.
        idle_minutes: Minutes without work after which the engine ends.
        stage_timeout: Seconds after which a stage counts as hung.
        recover_timeout: The same for stages that train.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int | None = Field(default=None, ge=1)
    idle_minutes: float = Field(default=10.0, gt=0)
    stage_timeout: float = Field(default=900.0, gt=0)
    recover_timeout: float = Field(default=7200.0, gt=0)


class Config(BaseModel):
    """Where studies live, where the engine keeps its lock and log, and how it runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str = Field(default_factory=lambda: str(Path(platformdirs.user_data_dir(_APP)) / "store"))
    runtime_dir: str = Field(default_factory=lambda: str(Path(platformdirs.user_state_dir(_APP)) / "engine"))
    engine: EngineConfig = EngineConfig()


def config_path() -> Path:
    """Where the configuration file is, or would be."""
    named = os.environ.get("QUANTTAAS_CONFIG")
    return Path(named) if named else Path(platformdirs.user_config_dir(_APP)) / "config.yaml"


def load_config() -> Config:
    """Read the file (if there is one) and the environment: ``QUANTTAAS_STORE``, ``QUANTTAAS_RUNTIME_DIR``,
    ``QUANTTAAS_SLOTS``.

    Raises:
        QuantTaaSError: The file is broken; the sentence names it.
    """
    variables = tuple(os.environ.get(name) for name in ("QUANTTAAS_STORE", "QUANTTAAS_RUNTIME_DIR", "QUANTTAAS_SLOTS"))
    path = config_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    return _config(path, text, variables)


@lru_cache(maxsize=8)
def _config(path: Path, text: str, variables: tuple[str | None, ...]) -> Config:
    store, runtime_dir, slots = variables
    try:
        values = yaml.safe_load(text) or {}
        if store:
            values["store"] = store
        if runtime_dir:
            values["runtime_dir"] = runtime_dir
        if slots:
            values["engine"] = {**values.get("engine", {}), "slots": slots}
        return Config.model_validate(values)
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise QuantTaaSError(f"the configuration {path} is not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise QuantTaaSError(f"the configuration {path} is wrong at {where}: {first['msg']}") from None
