"""One configuration for kernel, server and engine; the environment overrides the file.

The file is ``config.yaml`` in the user's configuration folder (``QUANTTAAS_CONFIG`` names another one)::

    store: ~/studies          # or {path: /srv/studies, shared: true} for a folder that others shall read and write
    engine:
      slots: 4
      idle_minutes: 30
    clusters:
      l4:
        address: http://127.0.0.1:8265
        store: gs://my-bucket/studies
        slot: {cpus: 4, gpus: 0.5}
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import QuantTaaSError

_APP = "quanttaas"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class EngineConfig(BaseModel):
    """Options of the resident engine on this machine.

    Attributes:
        slots: Stages that run at the same time; None for one per physical core, or fewer if memory is short.
        idle_minutes: Minutes without work after which the engine ends.
        stage_timeout: Seconds after which a stage counts as hung.
        recover_timeout: Seconds after which a stage that trains counts as hung.
        lease_seconds: Seconds after which the studies of an engine that died count as interrupted.
        memory_gb: Memory in GiB that stages may take together; None for what is free when the engine starts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int | None = Field(default=None, ge=1)
    idle_minutes: float = Field(default=10.0, gt=0)
    stage_timeout: float = Field(default=900.0, gt=0)
    recover_timeout: float = Field(default=7200.0, gt=0)
    lease_seconds: float = Field(default=30.0, ge=3, le=3600)
    memory_gb: float | None = Field(default=None, gt=0)


class SlotConfig(BaseModel):
    """Resources of one slot on a cluster, where one stage runs at a time.

    Attributes:
        cpus: Processors, and threads of the stage.
        gpus: Share of a GPU for a training; 0 for clusters without GPUs.
        memory_gb: Memory in GiB that Ray reserves; None to reserve none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0.0, ge=0)
    memory_gb: float | None = Field(default=None, gt=0)


class Prices(BaseModel):
    """Prices of a cluster for one hour: of a node, of a processor and of a GPU, which add up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: float = Field(default=0.0, ge=0)
    cpu: float = Field(default=0.0, ge=0)
    gpu: float = Field(default=0.0, ge=0)


class ClusterConfig(BaseModel):
    """Address, store and limits of a Ray cluster.

    Attributes:
        address: Address of the Jobs API: ``http://HOST:8265``, or ``vertex_ray://...``.
        store: Store for its studies, unless the cell names another one.
        token_file: File that holds the cluster's token; None if it requires none.
        slot: Resources of one stage.
        max_slots: Stages at the same time; None for as many as the present nodes hold.
        warm_seconds: Seconds without work after which workers release their resources.
        package: ``image`` if the cluster's image holds this version, ``upload`` to send it, ``auto`` to detect that.
        prices: Prices per hour.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    store: str | None = None
    token_file: str | None = None
    slot: SlotConfig = SlotConfig()
    max_slots: int | None = Field(default=None, ge=1)
    warm_seconds: float = Field(default=60.0, ge=0)
    package: Literal["auto", "image", "upload"] = "auto"
    prices: Prices | None = None

    @field_validator("address")
    @classmethod
    def _has_scheme(cls, value: str) -> str:
        if not re.fullmatch(r"(https?|vertex_ray)://\S+", value):
            raise ValueError(f"{value!r} is no address of a Jobs API, such as http://127.0.0.1:8265")
        return value.rstrip("/")


class Config(BaseModel):
    """Configuration of the package: store, clusters, and the options of the engine on this machine.

    ``store`` may also be a mapping of ``path`` and ``shared``, which is kept as ``store_shared``: whether the folders
    of a store are open to others, as the umask says, instead of to this user alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: str | None = None
    clusters: dict[str, ClusterConfig] = Field(default_factory=dict)
    store: str = Field(default_factory=lambda: str(Path(platformdirs.user_data_dir(_APP)) / "store"))
    store_shared: bool = False
    runtime_dir: str = Field(default_factory=lambda: str(Path(platformdirs.user_state_dir(_APP)) / "engine"))
    engine: EngineConfig = EngineConfig()


def config_path() -> Path:
    """Return the path of the configuration file, whether it exists or not."""
    named = os.environ.get("QUANTTAAS_CONFIG")
    return Path(named) if named else Path(platformdirs.user_config_dir(_APP)) / "config.yaml"


def load_config() -> Config:
    """Read the configuration file, if it exists, and let environment variables override it.

    The variables are ``QUANTTAAS_STORE``, ``QUANTTAAS_CLUSTER``, ``QUANTTAAS_RUNTIME_DIR`` and ``QUANTTAAS_SLOTS``.

    Raises:
        QuantTaaSError: The file is not valid; the message names the file and the wrong value.
    """
    variables = tuple(os.environ.get(f"QUANTTAAS_{name}") for name in ("STORE", "CLUSTER", "RUNTIME_DIR", "SLOTS"))
    path = config_path()
    return _config(path, _text(path), variables)


def save_cluster(name: str, cluster: ClusterConfig | None) -> None:
    """Write a cluster into the configuration file, or remove it (None); other values stay, comments are lost.

    Raises:
        QuantTaaSError: The name is malformed, or the file is broken or cannot be written.
    """
    if not _NAME.fullmatch(name) or name == "local":
        raise QuantTaaSError(
            f"{name!r} is no name for a cluster: use lower-case letters, digits and dashes; 'local' is this machine"
        )
    load_config()
    path = config_path()
    values = yaml.safe_load(_text(path)) or {}
    clusters = {**(values.get("clusters") or {})}
    clusters.pop(name, None)
    if cluster is not None:
        clusters[name] = cluster.model_dump(exclude_defaults=True, mode="json")
    values["clusters"] = clusters
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as stream:
            yaml.safe_dump(values, stream, sort_keys=False)
        os.replace(stream.name, path)
    except OSError as error:
        raise QuantTaaSError(f"the configuration {path} cannot be written: {error.strerror}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


@lru_cache(maxsize=8)
def _config(path: Path, text: str, variables: tuple[str | None, ...]) -> Config:
    store, cluster, runtime_dir, slots = variables
    try:
        values: dict[str, Any] = yaml.safe_load(text) or {}
        if isinstance(place := values.get("store"), dict):
            if place.keys() - {"path", "shared"}:
                raise QuantTaaSError(f"the configuration {path} is wrong at store: it has a path, and shared")
            values |= {"store_shared": place.get("shared", False)}
            values.pop("store")
            values |= {"store": place["path"]} if place.get("path") else {}
        named = {"store": store, "cluster": cluster, "runtime_dir": runtime_dir}
        values |= {key: value for key, value in named.items() if value}
        if slots:
            values["engine"] = {**values.get("engine", {}), "slots": slots}
        return Config.model_validate(values)
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise QuantTaaSError(f"the configuration {path} is not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise QuantTaaSError(f"the configuration {path} is wrong at {where}: {first['msg']}") from None
