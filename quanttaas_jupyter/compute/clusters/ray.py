"""Ray cluster as clients see it: one resident engine per user and store, submitted through the Jobs API.

The Jobs API is plain HTTP: the versions of Ray may differ, no connection stays open, and submitting twice is harmless
because the client chooses the submission id.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ...core.config import ClusterConfig, load_config
from ...core.errors import ClusterError, MissingDependency
from ...core.failures import first_line
from ...core.versions import machine, source
from ...store.base import Store
from ...study_store import records
from . import tickets

HELLO = "quanttaas engine "
"""Prefix of the line in which an engine prints its versions as JSON."""

_UP = ("PENDING", "RUNNING")
_HELLO_SECONDS = 180.0
"""Seconds to wait for a new engine's versions; chosen, not tuned. A node that starts first may need most of it."""
_POLL = 0.25
"""Seconds between two requests; chosen, not tuned. Shorter ones load the cluster's dashboard."""
_LOOK_AGAIN = 5.0
"""Seconds without a claim after which ``wait_until_claimed`` checks that an engine runs; chosen, not tuned."""
_CLAIM_SECONDS = 60.0
"""Seconds for which ``wait_until_claimed`` waits for a claim; chosen, not tuned."""
_REACH_SECONDS = 10.0
"""Timeout in seconds of the first request to an address; chosen, not tuned."""
_environment = threading.Lock()


_hellos: dict[str, dict[str, str]] = {}
"""Versions that engines printed at their start, by job; they do not change while an engine runs."""


class RayCluster:
    """Ray cluster of the configuration."""

    def __init__(self, name: str, config: ClusterConfig) -> None:
        self.name, self.config = name, config

    def ensure_engine(self, store: str) -> dict[str, str]:
        """Start the engine of this user and store unless it runs.

        Returns:
            Its versions (see ``versions``), and under ``engine`` its name in tickets.

        Raises:
            ClusterError: The cluster cannot be reached, refuses the token, is no Ray cluster, lacks a package, or
                cannot reach the store.
            MissingDependency: Ray is not installed here.
        """
        client = self._client()
        modes = ("image", "upload") if self.config.package == "auto" else (self.config.package,)
        running = [mode for mode in modes if self._is_up(client, self._job_id(store, mode))]
        # A running engine was checked when it started; prefer the one with the uploaded package.
        for mode in running[-1:] or modes:
            job = self._job_id(store, mode)
            if not running:
                self._submit(client, job, store, mode)
            hello = self._hello(client, job)
            if hello and "trouble" in hello:
                raise ClusterError(f"the engine on cluster {self.name!r} cannot work: {hello['trouble']}")
            if hello and (mode == modes[-1] or hello["source"] == source()):
                return {**hello, "engine": job}
            self._stop(client, job)
        raise ClusterError(self._why_not(client, job))

    def refuse_store(self, store: str, there: dict[str, str] | None = None) -> None:
        """Check that the cluster can reach a store: a local folder needs an engine on this machine.

        Raises:
            ClusterError: The store is a folder that the cluster cannot see.
        """
        is_near = self._is_near if there is None else there["machine"] == machine()
        if store.startswith("file:") and not is_near:
            raise ClusterError(
                f"cluster {self.name!r} cannot reach {store}, a folder of this machine; name a bucket: "
                "--store gs://BUCKET/PREFIX, or 'store' in the cluster's configuration"
            )

    @property
    def _is_near(self) -> bool:
        """Whether the cluster may run on this machine: the address is loopback, which may also be a tunnel."""
        return urlparse(self.config.address).hostname in ("127.0.0.1", "localhost", "::1")

    def submit(self, store: Store, study_id: str, sha256: str, is_resume: bool = False) -> None:
        """Write a signed ticket into the store's queue, where the engine finds it.

        Raises:
            ClusterError: As ``ensure_engine``.
        """
        engine = self.ensure_engine(store.uri)["engine"]
        ticket = {"study": study_id, "sha256": sha256, "resume": is_resume, **tickets.stamp()}
        place = {"store": store.uri, "cluster": self.name, "engine": engine}
        records.enqueue(store, self.name, study_id, tickets.sign({**ticket, **place}))

    def wait_until_claimed(self, store: Store, study_id: str) -> None:
        """Wait until an engine has claimed a study, for a minute at most.

        An engine without work may have ended while the data was uploaded.

        Raises:
            ClusterError: As ``ensure_engine``.
        """
        deadline = time.monotonic() + _CLAIM_SECONDS
        while time.monotonic() < deadline:
            until = time.monotonic() + _LOOK_AGAIN
            while time.monotonic() < until:
                if records.read_ticket(store, self.name, study_id) is None:
                    return
                time.sleep(_POLL)
            self.ensure_engine_for(store, study_id)

    def ensure_engine_for(self, store: Store, study_id: str) -> None:
        """Start an engine for a queued study of this user that no engine claims.

        Raises:
            ClusterError: As ``ensure_engine``.
        """
        ticket = records.read_ticket(store, self.name, study_id)
        # Verified, since it may be signed anew below: anybody can write this user's public key into a ticket.
        if ticket is None or not tickets.is_signed_by(ticket, tickets.public_key()):
            return
        place = {"study": study_id, "store": store.uri, "cluster": self.name}
        if {**ticket, **place} != ticket:
            return
        if self.ensure_engine(store.uri)["engine"] != ticket.get("engine") or tickets.is_expired(ticket):
            # The settings or this package changed after the ticket was written.
            self.submit(store, study_id, str(ticket["sha256"]), bool(ticket["resume"]))

    def is_mine(self, store: Store, study_id: str) -> bool:
        """Return whether the study is queued with a ticket of this user."""
        ticket = records.read_ticket(store, self.name, study_id)
        return ticket is not None and tickets.is_signed_by(ticket, tickets.public_key())

    def engine_log(self, store: str) -> str:
        """Return the output of all engines of this user and store that the cluster still knows.

        Raises:
            ClusterError: The cluster cannot be reached.
        """
        client = self._client()
        logs = []
        for job in self._engines(client, store):
            with self._words(), contextlib.suppress(RuntimeError):
                logs.append(str(client.get_job_logs(job.submission_id)))
        return "\n".join(logs)

    def stop_engine(self, store: str) -> bool:
        """Stop all engines of this user and store, and return whether one ran; their studies can be resumed.

        Raises:
            ClusterError: The cluster cannot be reached.
        """
        client = self._client()
        running = [job for job in self._engines(client, store) if str(job.status.value) in _UP]
        for job in running:
            self._stop(client, job.submission_id)
        return bool(running)

    def _engines(self, client: Any, store: str) -> list[Any]:
        """Return the jobs of this user and store, oldest first, including those started with earlier settings."""
        wanted = self._metadata(store)
        with self._words():
            jobs = [job for job in client.list_jobs() if (job.metadata or {}) == wanted]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def _metadata(self, store: str) -> dict[str, str]:
        return {"quanttaas_store": store, "quanttaas_key": tickets.public_key()}

    def nodes(self) -> list[dict[str, Any]]:
        """Return the running nodes as ``is_head``, ``cpus``, ``gpus`` and ``gpu`` (its name, if known).

        Raises:
            ClusterError: The cluster cannot be reached.
        """
        self._client()
        from ray.util.state import StateApiClient
        from ray.util.state.common import ListApiOptions, StateResource

        with self._words(), _own_address():
            state = StateApiClient(self.config.address, headers=self._headers())
            answers = state.list(StateResource.NODES, ListApiOptions(), raise_on_missing_output=False)
        nodes = [node if isinstance(node, dict) else vars(node) for node in answers]
        return [_node(node) for node in nodes if node.get("state") == "ALIVE"]

    def _job_id(self, store: str, mode: str) -> str:
        """Return the id of the engine's job, a hash of user, store, this source and the cluster's settings."""
        material = [self.name, store, tickets.public_key(), source(), mode, self._options(store, "")]
        return f"quanttaas-{hashlib.sha256(json.dumps(material).encode()).hexdigest()[:20]}"

    def _options(self, store: str, job: str) -> str:
        """Return the engine's options as JSON; they hold no secret."""
        config = self.config.model_dump(mode="json", include={"slot", "max_slots", "warm_seconds", "prices"})
        engine = load_config().engine.model_dump(mode="json", exclude={"slots"})
        who = {"cluster": self.name, "store": store, "key": tickets.public_key(), "id": job}
        options = {**who, **config, "engine": engine}
        return json.dumps(options, sort_keys=True)

    def _is_up(self, client: Any, job: str) -> bool:
        with self._words():
            try:
                return str(client.get_job_status(job).value) in _UP
            except RuntimeError as error:
                if "404" in str(error) or "does not exist" in str(error):
                    return False
                raise ClusterError(f"cluster {self.name!r} gives no good answer: {first_line(error)}") from None

    def _submit(self, client: Any, job: str, store: str, mode: str) -> None:
        package = str(Path(__file__).resolve().parents[2])
        environment = {"py_modules": [package], "excludes": ["**/__pycache__"]} if mode == "upload" else {}
        command = f"python -u -m quanttaas_jupyter.engine {shlex.quote(self._options(store, job))}"
        _hellos.pop(job, None)
        with self._words():
            # An id can be used again only after its ended job is deleted.
            with contextlib.suppress(RuntimeError):
                client.delete_job(job)
            try:
                metadata = self._metadata(store)
                client.submit_job(entrypoint=command, submission_id=job, runtime_env=environment, metadata=metadata)
            except RuntimeError as error:
                # Another kernel of this user was first, or the answer to an earlier attempt was lost.
                if not self._is_up(client, job):
                    raise ClusterError(f"cluster {self.name!r} took no job: {first_line(error)}") from None

    def _stop(self, client: Any, job: str) -> None:
        with self._words(), contextlib.suppress(RuntimeError):
            client.stop_job(job)

    def _hello(self, client: Any, job: str) -> dict[str, str] | None:
        """Return the versions that an engine prints at its start, or None if it ended without printing them."""
        if job in _hellos:
            return _hellos[job]
        deadline = time.monotonic() + _HELLO_SECONDS
        while time.monotonic() < deadline:
            is_up = self._is_up(client, job)
            with self._words(), contextlib.suppress(RuntimeError):
                for line in str(client.get_job_logs(job)).splitlines():
                    if line.startswith(HELLO):
                        hello: dict[str, str] = json.loads(line.removeprefix(HELLO))
                        if is_up and "trouble" not in hello:
                            _hellos[job] = hello
                        return hello if is_up or "trouble" in hello else None
            if not is_up:
                return None
            time.sleep(_POLL)
        raise ClusterError(
            f"cluster {self.name!r} started no engine within {_HELLO_SECONDS:g} s; "
            "%quanttaas cluster status shows its nodes"
        )

    def _why_not(self, client: Any, job: str) -> str:
        lines: list[str] = []
        with contextlib.suppress(Exception):
            lines = str(client.get_job_logs(job)).strip().splitlines()
        last = lines[-1] if lines else "it left no message"
        if "No module named" in last:
            package = last.rpartition("No module named ")[2].strip("'\"")
            return (
                f"the image of cluster {self.name!r} lacks the package {package!r}; use an image with "
                "'pip install quanttaas-jupyter[ray,gcs]' (%quanttaas cluster template docker shows one)"
            )
        return f"the engine ended on cluster {self.name!r}: {last[:300]}"

    def _headers(self) -> dict[str, str]:
        if self.config.token_file is None:
            return {}
        try:
            token = Path(self.config.token_file).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ClusterError(
                f"the token of cluster {self.name!r} cannot be read: {self.config.token_file}: {error.strerror}"
            ) from None
        return {"Authorization": f"Bearer {token}"}

    def _client(self) -> Any:
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError:
            raise MissingDependency(
                f"cluster {self.name!r} needs Ray: pip install 'quanttaas-jupyter[ray]', then restart the kernel"
            ) from None
        headers = self._headers()
        if self.config.address.startswith("http"):
            self._reach(headers)
        with self._words(), _own_address():
            return JobSubmissionClient(self.config.address, headers=headers)

    def _reach(self, headers: dict[str, str]) -> None:
        """Check that a Ray dashboard answers: Ray's client has no timeout, and takes any web server for a cluster."""
        import requests

        address = self.config.address
        with self._words():
            answer = requests.get(f"{address}/api/version", headers=headers, timeout=_REACH_SECONDS)
        if answer.status_code in (401, 403):
            raise ClusterError(self._refused())
        try:
            known = answer.json().get("ray_version") if answer.ok else None
        except (ValueError, AttributeError):
            known = None
        if not known:
            raise ClusterError(
                f"{address} answers, but not like a Ray dashboard; give the address of the Jobs API, mostly port 8265"
            )

    def _refused(self) -> str:
        if self.config.token_file:
            return f"cluster {self.name!r} refuses the token in {self.config.token_file}; put the cluster's own there"
        return (
            f"cluster {self.name!r} asks for a token: %quanttaas cluster connect {self.name} {self.config.address} "
            "--token-file FILE names the file that holds it"
        )

    @contextmanager
    def _words(self) -> Iterator[None]:
        """Translate connection errors into a ClusterError with one sentence; let RuntimeErrors of the Jobs API pass."""
        import requests

        try:
            yield
        except ClusterError:
            raise
        except Exception as error:
            if type(error).__name__ == "AuthenticationError":
                raise ClusterError(self._refused()) from None
            # The state API has an error of its own for a lost connection.
            lost = (requests.exceptions.RequestException, ConnectionError)
            if not isinstance(error, lost) and type(error).__name__ != "ServerUnavailable":
                raise
            raise ClusterError(
                f"cluster {self.name!r} cannot be reached at {self.config.address}; if it lies behind a tunnel, open "
                "that first (ssh -L 8265:localhost:8265 HEAD), and see that the cluster is up"
            ) from None


@contextmanager
def _own_address() -> Iterator[None]:
    """Hide Ray's environment variables with addresses, which Ray prefers to a given address."""
    with _environment:
        names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        before = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(before)


def _node(values: dict[str, Any]) -> dict[str, Any]:
    resources = values.get("resources_total") or {}
    named = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return {
        "is_head": bool(values.get("is_head_node")),
        "cpus": float(resources.get("CPU", 0)),
        "gpus": float(resources.get("GPU", 0)),
        "gpu": named[0] if named else "",
    }
