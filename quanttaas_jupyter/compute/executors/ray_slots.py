"""Decisions of the Ray executor about slots, waiting stages and nodes, as plain data without calls of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ...core.config import SlotConfig
from ...core.device import Device
from .base import StageCall

_PATIENCE = 120.0
"""Seconds that a latency stage waits for the other stages before they wait for it; chosen, not tuned."""
_GIVE_UP_TIMING = 900.0
"""Seconds that latency stages wait for a node of the kind that timed the others; longer than a node takes to start."""
_ALMOST = 1e-9
"""Added before rounding down, since 1 / 0.1 may come out just below 10 in floating point."""


@dataclass(eq=False)
class Job:
    """Stage that waits or runs."""

    call: StageCall
    report: Callable[[str], None]
    future: Future[dict[str, Any]]
    submitted: float
    number: int
    started: float = 0.0
    read: int = 0
    is_asked: bool = False
    asked: float = 0.0
    restarts: int = 0
    hello: Any = None
    ended_because: Exception | None = None

    @property
    def duty(self) -> str:
        """The worker of a slot that runs it: ``measure`` or ``build``."""
        return "measure" if self.call.is_measurement else "build"

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key; smaller goes first."""
        return self.call.priority, self.number


@dataclass(eq=False)
class Slot:
    """Slot for one stage at a time; ``placement`` describes its first worker once that is up."""

    has_gpu: bool
    anchor: str
    created: float
    workers: dict[str, Any] = field(default_factory=dict)
    placement: dict[str, Any] | None = None
    job: Job | None = None
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_free(self) -> bool:
        """Whether a stage can start in this slot."""
        return self.placement is not None and self.job is None

    @property
    def node(self) -> str:
        """Id of the slot's node; empty until the slot is up."""
        return str(self.placement["node"]) if self.placement else ""

    @property
    def device(self) -> Device | None:
        """Device of the slot; None until the slot is up."""
        return Device(**self.placement["device"]) if self.placement else None


class Fleet:
    """Slots of an executor, the stages that wait for them, and the nodes of the cluster."""

    def __init__(self, config: SlotConfig, max_slots: int | None) -> None:
        self.config, self.max_slots = config, max_slots
        self.nodes: list[dict[str, Any]] = []
        self.slots: list[Slot] = []
        self.pending: list[Job] = []
        self.device: Device | None = None
        self.times_with_gpu = False
        self._could_time = float("-inf")
        self._devices: dict[str, Device] = {}

    @property
    def limit(self) -> int:
        """Largest number of slots."""
        return self.max_slots or max(1, self.room(has_gpu=False))

    def come_up(self, slot: Slot, placement: dict[str, Any]) -> None:
        """Mark a slot as up; the first one decides which device latency is measured on."""
        slot.placement, slot.idle_since = placement, time.monotonic()
        device = self._devices[slot.node] = Device(**placement["device"])
        if self.device is None:
            self.device, self.times_with_gpu = device, slot.has_gpu

    def lost(self) -> list[Slot]:
        """Return the slots whose node is gone."""
        alive = {node["NodeID"] for node in self.nodes}
        return [slot for slot in self.slots if slot.placement and slot.node not in alive]

    # Room on nodes.

    def room(self, has_gpu: bool) -> int:
        """Return how many slots of a kind the present nodes hold if they hold nothing else."""
        return sum(self._room_of(node, has_gpu) for node in self.nodes)

    def room_left(self, has_gpu: bool) -> int:
        """Return how many more slots of a kind fit on the present nodes."""
        return sum(self._room_left_of(node, has_gpu) for node in self.nodes)

    def _room_of(self, node: dict[str, Any], has_gpu: bool) -> int:
        resources, config = node["Resources"], self.config
        fitting = [resources.get("CPU", 0) // config.cpus]
        if config.memory_gb:
            fitting.append(resources.get("memory", 0) // (config.memory_gb * 2**30))
        if has_gpu:
            fitting.append(self._gpu_shares_of(node))
        return int(min(fitting))

    def _gpu_shares_of(self, node: dict[str, Any]) -> int:
        gpus, share = node["Resources"].get("GPU", 0), self.config.gpus
        if not share:
            return 0
        # A share lies on one GPU: two GPUs hold two times 0.6, not three times.
        return int(gpus) * int(1 / share + _ALMOST) if share <= 1 else int(gpus / share + _ALMOST)

    def _room_left_of(self, node: dict[str, Any], has_gpu: bool) -> int:
        here = [slot for slot in self.slots if slot.node == node["NodeID"]]
        left = self._room_of(node, has_gpu=False) - len(here)
        if has_gpu:
            left = min(left, self._gpu_shares_of(node) - sum(slot.has_gpu for slot in here))
        return max(0, left)

    # Waiting stages, and slots that are starting for them.

    def needs_gpu(self, job: Job) -> bool:
        """Return whether a stage waits for a slot with a GPU."""
        return job.call.wants_gpu and self.config.gpus > 0

    def waiting(self, has_gpu: bool) -> list[Job]:
        """Return the stages that wait for slots of a kind, by priority."""
        skips_timing = self.lacks_timing()
        jobs = [job for job in self.pending if self.needs_gpu(job) == has_gpu]
        return sorted((job for job in jobs if not (skips_timing and job.call.is_exclusive)), key=lambda job: job.order)

    def waiting_for_timing(self) -> list[Job]:
        """Return the waiting stages that need a node to themselves, by priority."""
        return sorted((job for job in self.pending if job.call.is_exclusive), key=lambda job: job.order)

    def waiting_at_all(self, has_gpu: bool) -> list[Job]:
        """Return the stages that wait for slots of a kind, including latency stages that lack such a slot."""
        is_for_timing = self.lacks_timing() and has_gpu == self.times_with_gpu
        return self.waiting(has_gpu) + (self.waiting_for_timing() if is_for_timing else [])

    def starting(self, has_gpu: bool) -> list[Slot]:
        """Return the slots of a kind that are not up yet, oldest first."""
        return [slot for slot in self.slots if slot.placement is None and slot.has_gpu == has_gpu]

    def uncovered(self, has_gpu: bool) -> list[Job]:
        """Return the waiting stages for which no slot is free or starting, by priority."""
        coming = self._free(has_gpu) + len(self.starting(has_gpu))
        if not has_gpu:
            # Slots with a GPU serve trainings first, and a slot that no node has room for may never start.
            with_gpu = self._free(True) + min(len(self.starting(True)), self.room_left(True))
            coming += max(0, with_gpu - len(self.waiting(True)))
        return self.waiting(has_gpu)[coming:]

    def _free(self, has_gpu: bool) -> int:
        return sum(slot.is_free and slot.has_gpu == has_gpu for slot in self.slots)

    def idle_for(self, seconds: float) -> list[Slot]:
        """Return the slots that have been idle for ``seconds`` and that no waiting stage can use."""
        since = time.monotonic() - seconds
        idle = [slot for slot in self.slots if slot.job is None and slot.idle_since < since]
        return [slot for slot in idle if not any(self._fits(job, slot) for job in self.pending)]

    def _fits(self, job: Job, slot: Slot) -> bool:
        if job.call.is_exclusive and slot.placement and self.device:
            return slot.device == self.device
        return slot.has_gpu or not self.needs_gpu(job)

    # Slots to start and to give back.

    def has_place(self, has_gpu: bool) -> bool:
        """Return whether one more slot of a kind may be started."""
        return self._may_grow(has_gpu) and (self._is_guest(has_gpu) or self._taken() < self.limit)

    def is_full(self) -> bool:
        """Return whether the limit of slots is reached."""
        return self._taken() >= self.limit

    def _may_grow(self, has_gpu: bool) -> bool:
        able = [node["NodeID"] for node in self.nodes if self._room_of(node, has_gpu)]
        timing = self.timing_nodes()
        if able and all(node in timing for node in able):
            # A starting worker imports its libraries, which would disturb the running measurement.
            return False
        if not has_gpu or self.max_slots:
            return True
        return sum(slot.has_gpu for slot in self.slots) < max(1, self.room(True))

    def _is_guest(self, has_gpu: bool) -> bool:
        """Return whether a starting GPU slot is not counted, because it requests the cluster's first GPU node."""
        return has_gpu and self.max_slots is None and not self.room(True)

    def _taken(self) -> int:
        return len(self.slots) - (len(self.starting(True)) if self._is_guest(True) else 0)

    def to_warm(self) -> list[bool]:
        """Return the kinds (with a GPU or not) of the slots that the present nodes have room for."""
        total = min(self.limit, self.room(False))
        with_gpu = min(total, self.room(True))
        gpus = sum(slot.has_gpu for slot in self.slots)
        kinds = [True] * (with_gpu - gpus) + [False] * (total - with_gpu - len(self.slots) + gpus)
        return kinds[: max(0, total - len(self.slots))]

    def unwanted(self, wishes_device: bool) -> list[Slot]:
        """Return the slots that wait for a node that is no longer needed."""
        surplus = []
        for has_gpu in (True, False):
            starting = self.starting(has_gpu)
            wanted = len(self.waiting(has_gpu)) + (wishes_device and has_gpu == (self.config.gpus > 0))
            wanted += self.lacks_timing() and has_gpu == self.times_with_gpu
            without_node = len(starting) - self.room_left(has_gpu)
            surplus += starting[len(starting) - max(0, min(without_node, len(starting) - wanted)) :]
        return surplus

    def exchange(self) -> tuple[Slot | None, Job | None]:
        """Return a slot to give back, and the stage to start a slot of the other kind for; None for either."""
        trainings = self.uncovered(True)
        if trainings and self._may_grow(True) and not self.has_place(True):
            give = self._idle_in_the_way(is_for_limit=True)
            return give, trainings[0] if give else None
        is_blocked = len(self.starting(True)) > self.room_left(True) and len(self.waiting(True)) > self._free(True)
        if is_blocked and (give := self._idle_in_the_way(is_for_limit=False)) is not None:
            # A slot with a GPU is requested already, and starts as soon as there is room for it.
            return give, None
        others = self.uncovered(False)
        if others and self._may_grow(False) and self.is_full() and self.room_left(False):
            give = self._start_without_node()
            return give, others[0] if give else None
        return None, None

    def _idle_in_the_way(self, is_for_limit: bool) -> Slot | None:
        """Return an idle slot whose processors block a GPU, or any idle one if that keeps the configured limit."""
        idle = [slot for slot in self._idle() if not slot.has_gpu]
        short = [node["NodeID"] for node in self.nodes if self._is_short_of_processors(node)]
        beside = [slot for slot in idle if slot.node in short]
        return next(iter(beside or (idle if is_for_limit and self.max_slots else [])), None)

    def _is_short_of_processors(self, node: dict[str, Any]) -> bool:
        """Return whether a node's GPUs could hold more slots than its processors can."""
        taken = sum(slot.has_gpu for slot in self.slots if slot.node == node["NodeID"])
        return self._gpu_shares_of(node) - taken > self._room_left_of(node, has_gpu=True)

    def _start_without_node(self) -> Slot | None:
        """Return a slot that waits for a GPU node, unless it is the one that requests the node."""
        starting = self.starting(True)
        keeps = self.room_left(True) + (self.limit > 1)
        return starting[-1] if len(starting) > keeps else None

    def _idle(self) -> list[Slot]:
        """Return the idle slots that may be given back: not the last one for timing, nor one next to a measurement."""
        timing, able = self.timing_nodes(), self.able()
        is_needed = len(able) == 1 and bool(self.waiting_for_timing())
        return [s for s in self.slots if s.is_free and s.node not in timing and not (is_needed and s in able)]

    # Assignment of stages to slots.

    def best_slot(self, job: Job, reserved: set[str]) -> Slot | None:
        """Return the free slot for a stage that may share its node, or None."""
        able = [slot for slot in self.slots if slot.has_gpu or not self.needs_gpu(job)]
        # The result depends on the kind of processor; without a slot of this kind, any slot will do.
        alike = [slot for slot in able if slot.device is not None and slot.device.machine == job.call.machine]
        fitting = [slot for slot in alike or able if slot.is_free and slot.node not in reserved]
        # A slot without a GPU first: those with one are for trainings.
        return min(fitting, key=lambda slot: (slot.has_gpu, job.duty not in slot.workers), default=None)

    def timing_starts(self) -> tuple[list[tuple[Slot, Job]], set[str]]:
        """Return latency stages with idle slots to start in, and the nodes that must become or stay idle for them."""
        waiting, able, busy = self.waiting_for_timing(), self.able(), self.timing_nodes()
        if not waiting:
            return [], busy
        nodes = {slot.node for slot in able} - busy
        idle = {node for node in nodes if all(slot.job is None for slot in self.slots if slot.node == node)}
        is_last = all(job.call.is_exclusive for job in self.pending)
        is_due = is_last or time.monotonic() - min(job.submitted for job in waiting) > _PATIENCE
        if not (is_due or len({slot.node for slot in self.slots if slot.placement}) > 1):
            return [], busy
        where = list(zip(sorted(idle), waiting, strict=False))
        busy |= {node for node, _ in where}
        if is_due and not busy and nodes:
            busy.add(min(nodes))
        return [(next(slot for slot in able if slot.node == node), job) for node, job in where], busy

    # Latency measurements.

    def able(self) -> list[Slot]:
        """Return the slots on the kind of machine that latency is measured on."""
        return [slot for slot in self.slots if slot.placement and slot.device == self.device]

    def timing_nodes(self) -> set[str]:
        """Return the nodes on which a latency stage runs."""
        return {slot.node for slot in self.slots if slot.job is not None and slot.job.call.is_exclusive}

    def lacks_timing(self) -> bool:
        """Return whether latency stages wait and no slot is on the kind of machine that timed the earlier ones."""
        return self.device is not None and bool(self.waiting_for_timing()) and not self.able()

    def give_up_timing(self) -> list[Job]:
        """Remove and return latency stages that waited too long for the kind of machine that timed the others."""
        now = time.monotonic()
        if not self.lacks_timing():
            self._could_time = now
            return []
        if not self.room(has_gpu=False):
            # All stages wait for a node.
            return []
        # Latencies of two kinds of machine must not be compared.
        jobs = self.waiting_for_timing()
        lost = [job for job in jobs if now - max(job.submitted, self._could_time) > _GIVE_UP_TIMING]
        self.pending[:] = [job for job in self.pending if job not in lost]
        return lost

    def nodes_to_time_on(self) -> list[str]:
        """Return the nodes that are, or may be, of the kind that timed the earlier latency stages."""
        nodes = [node["NodeID"] for node in self.nodes if self._room_of(node, self.times_with_gpu)]
        return [node for node in nodes if self._devices.get(node, self.device) == self.device]

    def should_start_timing(self) -> bool:
        """Return whether a slot for latency stages should be started."""
        if not self.lacks_timing() or self.starting(self.times_with_gpu):
            return False
        # A slot on a node of another kind would be useless; without room, the slot requests a new node.
        return bool(self.nodes_to_time_on()) or not self.room_left(self.times_with_gpu)

    def to_give_for_timing(self) -> Slot | None:
        """Return an idle slot on another kind of machine, or None."""
        return next(iter(self._idle()), None)

    def missing(self, wishes_device: bool) -> str:
        """Return the resource that stages wait for and that no node has, or an empty string."""
        is_up = any(slot.placement for slot in self.slots)
        is_gpu_up = any(slot.placement and slot.has_gpu for slot in self.slots)
        is_wish = wishes_device and not is_up
        if self.lacks_timing() and not self.nodes_to_time_on():
            return "a GPU node" if self.times_with_gpu else "a node"
        if self.config.gpus and not self.room(True) and (is_wish or (self.waiting(True) and not is_gpu_up)):
            return "a GPU node"
        if not is_up and not self.room(False) and (is_wish or self.pending):
            return "a node"
        return ""
