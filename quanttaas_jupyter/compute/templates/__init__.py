"""Templates that create a Ray cluster with GPUs on Google Cloud, filled from a few options.

The templates are files of this package, and their output is meant to be read and edited. Each value is checked against
a strict pattern first, so that none can carry YAML, Python or a shell command.
"""

from __future__ import annotations

import re
import string
import sys
from collections.abc import Mapping
from importlib import metadata, resources
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from ...core.errors import QuantTaaSError
from ...core.versions import __version__

TEMPLATES = {"gce": "gce.yaml", "gke": "gke.yaml", "vertex": "vertex.py.txt", "docker": "Dockerfile"}
"""File of each kind of template."""

RAY = "2.60.0"
"""Version of Ray in the worker image."""

_TORCH = "2.13.0"
"""Version of torch in the worker image if the notebook has none; a plain choice."""
_MOST_WORKERS = 1000
"""Largest number of workers; a guard against typing errors, chosen, not tuned."""
_LONGEST_IDLE = 24 * 60
"""Largest idle time in minutes, one day; a guard against typing errors, chosen, not tuned."""
_WORD = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_ZONE = re.compile(r"[a-z]{2,20}(-[a-z]{2,20}){1,2}[0-9]{1,2}-(ai[0-9]{1,2})?[a-z]")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?")
_ACCOUNT = re.compile(rf"{_WORD.pattern}@{_WORD.pattern}\.iam\.gserviceaccount\.com")
_IMAGE = re.compile(
    r"[a-z0-9][a-z0-9.-]{0,120}(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]{0,120}){1,8}"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})"
)
_PYTHON = re.compile(r"3\.1[0-9]")
_RELEASE = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}")


class _Gpu(NamedTuple):
    """GPU type with the smallest sensible machine for one GPU.

    ``memory_gb`` is the part of the machine's memory that Ray hands out: about the 70 % that Ray takes by default,
    which its autoscaler cannot know before the machine exists. A pod gets the memory that Kubernetes leaves of such a
    machine.
    """

    machine: str
    cpus: int
    memory_gb: int
    accelerator: str
    is_built_in: bool
    vertex: str
    pod_cpus: int
    pod_memory: str


_GPUS = {
    "T4": _Gpu("n1-standard-8", 8, 20, "nvidia-tesla-t4", False, "NVIDIA_TESLA_T4", 7, "22Gi"),
    "L4": _Gpu("g2-standard-8", 8, 22, "nvidia-l4", True, "NVIDIA_L4", 7, "24Gi"),
    "A100": _Gpu("a2-highgpu-1g", 12, 58, "nvidia-tesla-a100", True, "NVIDIA_TESLA_A100", 11, "70Gi"),
}
_SPOT = (
    "{provisioningModel: SPOT, preemptible: true, instanceTerminationAction: DELETE, automaticRestart: false, "
    "onHostMaintenance: TERMINATE}"
)
_ON_DEMAND = "{provisioningModel: STANDARD, preemptible: false, automaticRestart: true, onHostMaintenance: TERMINATE}"
_GKE_SPOT = "cloud.google.com/gke-spot"
_TOLERATION = f'- {{key: {_GKE_SPOT}, operator: Equal, value: "true", effect: NoSchedule}}'


def _like(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(expected)
        return value

    return AfterValidator(check)


def _is_known_gpu(value: str) -> str:
    if value.upper() not in _GPUS:
        raise ValueError(f"choose one of {', '.join(_GPUS)}")
    return value.upper()


def _is_pinned(value: str) -> str:
    if value.endswith(":latest"):
        raise ValueError("name a version instead of 'latest', so that head and workers always run the same one")
    return value


def _without_scheme(value: Any) -> Any:
    return value.removeprefix("gs://").removesuffix("/") if isinstance(value, str) else value


def _running_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _installed_torch() -> str:
    """Return the notebook's release of torch, since a cluster with another minor version is refused."""
    try:
        release = metadata.version("torch").partition("+")[0]
    except metadata.PackageNotFoundError:
        return _TORCH
    return release if _RELEASE.fullmatch(release) else _TORCH


_Project = Annotated[
    str, _like(_WORD, "give the project's id, as `gcloud config get project` shows it: 6 to 30 of a-z, 0-9 and -")
]
_Zone = Annotated[
    str, _like(_ZONE, "give one such as us-central1-a; `gcloud compute accelerator-types list` shows which have GPUs")
]
_Bucket = Annotated[
    str, BeforeValidator(_without_scheme), _like(_BUCKET, "give one such as gs://my-bucket, without a folder")
]
_Name = Annotated[str, _like(_NAME, "give up to 30 lower-case letters, digits and dashes, beginning with a letter")]
_Image = Annotated[
    str,
    _like(_IMAGE, "give a path with a version, such as REGION-docker.pkg.dev/PROJECT/quanttaas/worker:1.0"),
    AfterValidator(_is_pinned),
]
_Account = Annotated[str, _like(_ACCOUNT, "give one such as NAME@PROJECT.iam.gserviceaccount.com")]
_Python = Annotated[str, _like(_PYTHON, "give a minor version such as 3.11")]
_Release = Annotated[str, _like(_RELEASE, "give a release such as 2.13.0")]


class TemplateOptions(BaseModel):
    """Options of a template.

    Attributes:
        project: Id of the Google Cloud project.
        zone: Zone of the machines; the region follows from it.
        gpu: ``T4``, ``L4`` or ``A100``; each worker has one.
        max_workers: Largest number of workers; without work there are none.
        spot: Whether workers run at the lower price of machines that Google may take back at any time.
        bucket: Bucket of the studies, with or without ``gs://``; all templates but the image need it.
        name: Name of the cluster.
        image: Image of head and workers, with its version; None for ``worker`` in the project's own repository.
        idle_minutes: Minutes without work after which a worker is removed.
        service_account: Account that workers run as; None for ``quanttaas-worker`` of the project.
        head_service_account: Account that the head runs as, which may start machines; None for ``quanttaas-head``.
        python: Minor version of Python in the image; models defined in a notebook need the notebook's version.
        torch: Version of torch in the image; that of the notebook if it is installed.

    Raises:
        QuantTaaSError: A value is missing, unknown or malformed; one sentence says which, and what to give instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: _Project
    zone: _Zone
    gpu: Annotated[str, AfterValidator(_is_known_gpu)] = "L4"
    max_workers: int = Field(default=4, ge=1, le=_MOST_WORKERS)
    spot: bool = True
    bucket: _Bucket | None = None
    name: _Name = "quanttaas"
    image: _Image | None = None
    idle_minutes: int = Field(default=10, ge=1, le=_LONGEST_IDLE)
    service_account: _Account | None = None
    head_service_account: _Account | None = None
    python: _Python = Field(default_factory=_running_python)
    torch: _Release = Field(default_factory=_installed_torch)

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, values: Any, handler: Any) -> TemplateOptions:
        try:
            checked: TemplateOptions = handler(values)
        except ValidationError as error:
            raise QuantTaaSError(_sentence(error)) from None
        return checked

    @property
    def region(self) -> str:
        """Region of the zone."""
        return self.zone.rpartition("-")[0]


def render(kind: str, options: TemplateOptions | Mapping[str, Any]) -> str:
    """Return the text of a template, filled with the options.

    Args:
        kind: One of ``TEMPLATES``.
        options: The options, or a mapping of them.

    Raises:
        QuantTaaSError: The template does not exist, or a value is missing, unknown or malformed.
    """
    if kind not in TEMPLATES:
        raise QuantTaaSError(f"there is no cluster template {_shown(kind)}; choose one of {', '.join(TEMPLATES)}")
    checked = options if isinstance(options, TemplateOptions) else TemplateOptions.model_validate(dict(options))
    if kind == "docker" and checked.python == "3.10":
        raise QuantTaaSError(
            "python '3.10' is too old for onnxruntime-gpu in the image; use a notebook with 3.11 or newer"
        )
    if kind != "docker" and checked.bucket is None:
        raise QuantTaaSError("the template needs bucket: give the bucket for the studies, such as gs://my-bucket")
    text = resources.files(__package__).joinpath(TEMPLATES[kind]).read_text(encoding="utf-8")
    return _Template(text).substitute(_values(kind, checked))


class _Template(string.Template):
    """Template with placeholders ``@@name``, which clash with no syntax of shell, Docker or Python."""

    delimiter = "@@"


def _values(kind: str, options: TemplateOptions) -> dict[str, Any]:
    gpu = _GPUS[options.gpu]
    repository = f"{options.region}-docker.pkg.dev/{options.project}/quanttaas"
    # Vertex AI runs its own version of Ray, and therefore needs another image.
    tag = __version__.replace("+", "-") + ("-vertex" if kind == "vertex" else "")
    image = options.image or f"{repository}/worker:{tag}"
    worker = options.service_account or f"quanttaas-worker@{options.project}.iam.gserviceaccount.com"
    head = options.head_service_account or f"quanttaas-head@{options.project}.iam.gserviceaccount.com"
    return {
        **options.model_dump(),
        "region": options.region,
        "image": image,
        "registry": image.partition("/")[0],
        "worker_account": worker,
        "worker_id": worker.partition("@")[0],
        "head_account": head,
        "head_id": head.partition("@")[0],
        "idle_seconds": options.idle_minutes * 60,
        "scheduling": _SPOT if options.spot else _ON_DEMAND,
        "spot_flag": " --spot" if options.spot else "",
        "spot_selector": f'{_GKE_SPOT}: "true"' if options.spot else "# no spot machines",
        "spot_toleration": _TOLERATION if options.spot else "# no spot machines",
        "machine": gpu.machine,
        "cpus": gpu.cpus,
        "memory": gpu.memory_gb << 30,
        "accelerators": "[]" if gpu.is_built_in else f'[{{acceleratorType: "{gpu.accelerator}", acceleratorCount: 1}}]',
        "accelerator": gpu.accelerator,
        "vertex_gpu": gpu.vertex,
        "pod_cpus": gpu.pod_cpus,
        "pod_memory": gpu.pod_memory,
        "ray": RAY,
        "version": __version__,
        "python_tag": options.python.replace(".", ""),
    }


def _sentence(error: ValidationError) -> str:
    """Return the first validation error as a sentence: what is wrong and what to give instead."""
    first = error.errors(include_url=False)[0]
    option = str(first["loc"][0]) if first["loc"] else "options"
    kind, given = first["type"], first.get("input", PydanticUndefined)
    if kind == "missing":
        return f"the template needs {option}: {_wanted(option)}"
    if kind == "extra_forbidden":
        return f"there is no option {_shown(option)}; known are {', '.join(TemplateOptions.model_fields)}"
    wanted = str(first["ctx"]["error"]) if kind == "value_error" else _wanted(option)
    return f"{option} {_shown(given)} does not fit: {wanted}"


def _wanted(option: str) -> str:
    return {
        "project": "give the id of your Google Cloud project, as `gcloud config get project` shows it",
        "zone": "give the zone of the machines, such as us-central1-a",
        "max_workers": f"give a whole number from 1 to {_MOST_WORKERS}",
        "idle_minutes": f"give a whole number from 1 to {_LONGEST_IDLE}",
        "spot": "give true or false",
        "options": "give the options by their names",
    }.get(option, "give a text")


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
