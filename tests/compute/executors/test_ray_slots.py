"""Which slots come and go, with a stand-in for the few calls of Ray: a real cluster has no GPUs to lose in a test."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError
from ray.util import scheduling_strategies

from quanttaas_jupyter.compute.executors import ray as ray_executor
from quanttaas_jupyter.compute.executors import ray_slots
from quanttaas_jupyter.compute.executors.base import NodeLost, StageCall, StageTimeout, WorkerDied
from quanttaas_jupyter.compute.executors.deduplicate import SharingExecutor
from quanttaas_jupyter.compute.executors.ray import RayExecutor
from quanttaas_jupyter.compute.executors.ray_slots import Fleet, Job, Slot
from quanttaas_jupyter.core.config import SlotConfig
from tests.loopback import until

GO: dict[str, Any] = {}
HOLD = {"hold": True}


class Affinity:
    """Ray's own takes no such readable names of nodes."""

    def __init__(self, node_id: str, soft: bool) -> None:
        self.node_id = node_id


class Answer:
    def __init__(self) -> None:
        self.inner: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.inner


class Method:
    def __init__(self, actor: "Actor", name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> Answer:
        answer = Answer()
        self._actor.calls.append((self._name, arguments, answer.inner))
        self._actor.cluster.settle()
        return answer


class Actor:
    def __init__(self, cluster: "Cluster", options: dict[str, Any]) -> None:
        self.cluster, self.options, self.is_alive, self.node = cluster, options, True, ""
        self.calls: list[tuple[str, tuple[Any, ...], Future[Any]]] = []
        self.placement, self.run, self.lines = (Method(self, name) for name in ("placement", "run", "lines"))

    @property
    def has_gpu(self) -> bool:
        return "num_gpus" in self.options

    def needs(self) -> tuple[float, float]:
        return self.options.get("num_cpus", 0), self.options.get("num_gpus", 0)


class Cluster:
    """Nodes with processors and GPUs; a stage that holds runs until ``release``."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, float]] = {}
        self.kinds: dict[str, str] = {}
        self.actors: list[Actor] = []
        self.can_start, self.can_kill = True, True
        self._released = False
        self._lock = threading.RLock()

    def alive(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "Resources": dict(has)} for name, has in self.nodes.items()]

    def remote(self, worker: Any) -> Any:
        class Creator:
            def options(inner, **options: Any) -> Any:
                inner.given = options
                return inner

            def remote(inner, *_: Any) -> Actor:
                actor = Actor(self, inner.given)
                with self._lock:
                    self.actors.append(actor)
                    self.settle()
                return actor

        return Creator()

    def kill(self, actor: Actor) -> None:
        if not self.can_kill:
            raise ConnectionError("out of reach")
        self.end(actor)

    def end(self, actor: Actor) -> None:
        with self._lock:
            actor.is_alive = False
            self.settle()

    def add(self, name: str, kind: str = "a", **resources: float) -> None:
        with self._lock:
            self.nodes[name], self.kinds[name] = resources, kind
            self.settle()

    def lose(self, name: str) -> None:
        with self._lock:
            del self.nodes[name]
            self.settle()

    def release(self) -> None:
        with self._lock:
            self._released = True
            self.settle()

    def waiting(self) -> list[Actor]:
        """Actors that ask for a node."""
        return [actor for actor in self.actors if actor.is_alive and not actor.node]

    def settle(self) -> None:
        with self._lock:
            for actor in self.actors:
                if actor.is_alive and not actor.node:
                    actor.node = self._place(actor)
                actor.calls = [call for call in actor.calls if not self._answer(actor, *call)]

    def _place(self, actor: Actor) -> str:
        where = getattr(actor.options["scheduling_strategy"], "node_id", None)
        for name, has in self.nodes.items():
            here = [other.needs() for other in self.actors if other.is_alive and other.node == name]
            cpus, gpus = (sum(taken) for taken in zip((0, 0), *here, strict=True))
            more_cpus, more_gpus = actor.needs()
            fits = cpus + more_cpus <= has.get("CPU", 0) and gpus + more_gpus <= has.get("GPU", 0)
            if fits and where in (None, name):
                return name
        return ""

    def _answer(self, actor: Actor, name: str, arguments: tuple[Any, ...], answer: Future[Any]) -> bool:
        if not actor.is_alive or (actor.node and actor.node not in self.nodes):
            answer.set_exception(RayActorError())
        elif not actor.node:
            return False
        elif name == "placement" and not self.can_start:
            actor.is_alive = False
            answer.set_exception(RuntimeError("No module named 'onnxruntime'"))
        elif name == "placement":
            device = {"machine": "x", "cpu": self.kinds[actor.node], "cores": 4, "gpu": ""}
            answer.set_result({"node": actor.node, "device": device, "gpus": None})
        elif name == "lines":
            answer.set_result([])
        elif arguments[0].get("hold") and not self._released:
            return False
        else:
            answer.set_result({"node": actor.node})
        return True


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    for name, stand_in in (("nodes", made.alive), ("remote", made.remote), ("kill", made.kill)):
        monkeypatch.setattr(ray, name, stand_in)
    monkeypatch.setattr(scheduling_strategies, "NodeAffinitySchedulingStrategy", Affinity)
    monkeypatch.setattr(ray_executor, "_TICK", 0.02)
    monkeypatch.setattr(ray_executor, "_UPDATE_EVERY", 0.02)
    return made


Make = Callable[..., RayExecutor]


@pytest.fixture
def make(cluster: Cluster) -> Iterator[Make]:
    made: list[RayExecutor] = []

    def create(max_slots: int | None = None, warm: float = 60, **slot: float) -> RayExecutor:
        made.append(RayExecutor(lambda *_: {}, lambda: None, SlotConfig.model_validate(slot), max_slots, warm))
        return made[-1]

    yield create
    for executor in made:
        executor.close()


def call(
    job: dict[str, Any], gpu: bool = False, exclusive: bool = False, key: str = "", seconds: float = 60
) -> StageCall:
    return StageCall({"store": "s", "key": key, **job}, exclusive, exclusive, seconds, (0,), gpu)


def ignore(line: str) -> None:
    pass


def submit(executor: RayExecutor, count: int, job: dict[str, Any], **options: Any) -> list[Future[dict[str, Any]]]:
    return [executor.submit(call(job, **options), ignore) for _ in range(count)]


def running(futures: list[Future[Any]]) -> int:
    return sum(future.running() for future in futures)


def looked(executor: RayExecutor, times: int = 3) -> None:
    """Wait until the executor has gone round."""
    for _ in range(times):
        before = executor._nodes_updated

        def is_newer(before: float = before) -> bool:
            return executor._nodes_updated > before

        until(is_newer, 5)


def test_stages_that_fail_do_not_stop_those_who_submit_more(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=1)
    cluster.can_start = False
    shared = SharingExecutor(make())
    rounds: list[int] = []

    def drive(name: str) -> None:
        for number in range(40):
            futures = [shared.submit(call(GO, key=f"{name} {number} {i}"), ignore) for i in range(6)]
            assert wait(futures, 20, return_when=FIRST_COMPLETED).done
            rounds.append(number)

    threads = [threading.Thread(target=drive, args=(name,), daemon=True) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(rounds) == 80


def test_futures_end_without_a_lock_that_submitting_needs(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=1)
    cluster.can_start = False
    executor = make()
    is_free: list[bool] = []

    def submit_from_elsewhere(_: Any) -> None:
        other = threading.Thread(target=submit, args=(executor, 1, GO), daemon=True)
        other.start()
        other.join(2)
        is_free.append(not other.is_alive())

    executor.submit(call(GO), ignore).add_done_callback(submit_from_elsewhere)
    assert until(lambda: is_free, 10) == [True]


def test_idle_slots_of_a_vanished_node_go_by_themselves(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=1)
    executor = make()
    executor.submit(call(GO), ignore).result(5)
    assert executor._slots
    cluster.lose("n")
    until(lambda: not executor._slots, 5)


def test_no_more_slots_make_room_than_a_gpu_holds() -> None:
    fleet = Fleet(SlotConfig(gpus=0.5), 16)
    fleet.nodes = [{"NodeID": "n", "Resources": {"CPU": 8, "GPU": 1}}]
    for number in range(12):
        fleet.slots.append(Slot(number >= 8, "build", 0.0))
    for slot in fleet.slots[:8]:
        fleet.come_up(slot, {"node": "n", "device": {"machine": "x", "cpu": "a", "cores": 4}})
    fleet.pending += [Job(call(GO, gpu=True), ignore, Future(), 0.0, number) for number in range(4)]
    given = 0
    while (given_back := fleet.exchange()[0]) is not None:
        fleet.slots.remove(given_back)
        given += 1
    assert given == 2


def test_what_depends_on_the_processor_waits_for_its_kind() -> None:
    fleet = Fleet(SlotConfig(), 4)
    fleet.nodes = [{"NodeID": name, "Resources": {"CPU": 2}} for name in ("old", "new")]
    old, new = fleet.slots[:] = [Slot(False, "build", 0.0) for _ in range(2)]
    for slot, node, machine in ((old, "old", "x86_64 without VNNI"), (new, "new", "x86_64")):
        fleet.come_up(slot, {"node": node, "device": {"machine": machine, "cpu": "a", "cores": 2}})

    def wish(machine: str) -> Job:
        return Job(replace(call(GO), machine=machine), ignore, Future(), 0.0, 0)

    assert fleet.best_slot(wish("x86_64"), set()) is new
    assert fleet.best_slot(wish("x86_64 without VNNI"), set()) is old
    assert fleet.best_slot(wish(""), {"old"}) is new
    new.job = wish("x86_64")
    assert fleet.best_slot(wish("x86_64"), set()) is None
    assert fleet.best_slot(wish(""), set()) is old
    fleet.slots.remove(new)
    assert fleet.best_slot(wish("x86_64"), set()) is old


def test_slots_of_a_vanished_node_go_and_cost_no_stage_an_attempt(cluster: Cluster, make: Make) -> None:
    cluster.add("lost", CPU=4)
    cluster.add("left", CPU=4)
    executor = make()
    held = submit(executor, 8, HOLD)
    until(lambda: running(held) == 8, 5)
    cluster.release()
    for future in held:
        future.result(5)
    cluster.lose("lost")
    for future in [*submit(executor, 8, GO), *submit(executor, 1, GO, exclusive=True)]:
        assert future.result(5) == {"node": "left"}
    until(lambda: all(slot.node == "left" for slot in executor._slots), 5)


def test_a_stage_on_a_vanished_node_is_lost_even_if_ray_does_not_say_so(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=1)
    (held,) = submit(make(), 1, HOLD)
    until(held.running, 5)
    cluster.nodes.clear()
    with pytest.raises(NodeLost):
        held.result(5)


def test_a_worker_that_died_while_idle_costs_no_stage_an_attempt(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=1)
    executor = make()
    executor.submit(call(GO), ignore).result(5)
    for actor in list(cluster.actors):
        cluster.end(actor)
    assert executor.submit(call(GO), ignore).result(5)
    (held,) = submit(executor, 1, HOLD)
    until(lambda: any(name == "run" for actor in cluster.actors for name, *_ in actor.calls), 5)
    for actor in list(cluster.actors):
        cluster.end(actor)
    with pytest.raises(WorkerDied):
        held.result(5)


def test_a_stage_that_waits_to_begin_again_can_be_stopped(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=1)
    executor = make()
    executor.submit(call(GO), ignore).result(5)
    cluster.can_start = False
    cluster.nodes["n"]["CPU"] = 0
    for actor in list(cluster.actors):
        cluster.end(actor)
    future = executor.submit(call(GO), ignore)
    until(lambda: [job.restarts for job in executor._pending] == [1], 5)
    executor.stop(future)
    with pytest.raises(CancelledError):
        future.result(5)


@pytest.mark.parametrize("max_slots", [None, 8, 16])
def test_idle_slots_make_room_for_trainings_one_by_one(cluster: Cluster, make: Make, max_slots: int | None) -> None:
    cluster.add("n", CPU=8, GPU=1)
    executor = make(max_slots, cpus=1, gpus=0.5)
    # Without a share of the GPU at first, as stages take them that need none.
    held = submit(executor, 8, HOLD)
    until(lambda: running(held) == 8, 5)
    cluster.release()
    for future in held:
        future.result(5)
    assert not any(slot.has_gpu for slot in executor._slots)
    cluster._released = False
    trainings = submit(executor, 4, HOLD, gpu=True)
    until(lambda: running(trainings) == 2, 5)
    looked(executor)
    idle = [slot for slot in executor._slots if slot.is_free]
    assert len(idle) >= (6 if max_slots != 8 else 4)
    others = submit(executor, 4, GO)
    for future in others:
        future.result(5)


def test_idle_slots_that_no_waiting_stage_can_use_are_given_back(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=2)
    executor = make(warm=0.1, gpus=1)
    executor.submit(call(GO), ignore).result(5)
    (training,) = submit(executor, 1, GO, gpu=True)
    until(lambda: not any(slot.placement for slot in executor._slots), 5)
    assert not training.done()


def test_a_share_of_a_gpu_lies_on_one_gpu() -> None:
    def room(share: float, gpus: int) -> int:
        fleet = Fleet(SlotConfig(cpus=2, gpus=share, memory_gb=1), None)
        fleet.nodes = [{"NodeID": "n", "Resources": {"CPU": 64, "GPU": gpus, "memory": 2**35}}]
        return fleet.room(has_gpu=True)

    assert [room(0.5, 1), room(0.1, 1), room(0.6, 2), room(2, 5), room(0.01, 1)] == [2, 10, 2, 2, 32]
    assert [room(0, 4), room(1, 0)] == [0, 0]


def test_warm_asks_for_no_more_than_fits(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=8, GPU=1)
    executor = make(gpus=0.5)
    executor.warm(lambda: True)
    until(lambda: len(executor._slots) == 8 and all(slot.placement for slot in executor._slots), 5)
    assert sum(slot.has_gpu for slot in executor._slots) == 2
    assert not cluster.waiting()
    held = submit(executor, 8, HOLD)
    until(lambda: running(held) == 8, 5)


def test_a_device_that_nobody_asks_for_any_more_brings_up_no_machine(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "_WISH", 0.3)
    executor = make(gpus=1)
    assert executor.device() is None
    until(cluster.waiting, 5)
    until(lambda: executor.waits_for() == "a GPU node", 5)
    until(lambda: not cluster.waiting(), 5)
    until(lambda: executor.waits_for() == "", 5)
    assert executor._slots == []


def test_trainings_that_were_stopped_ask_for_no_node(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=1)
    executor = make(4, gpus=1)
    trainings = submit(executor, 3, GO, gpu=True)
    until(lambda: len(cluster.waiting()) == 3, 5)
    for future in trainings[1:]:
        executor.stop(future)
    until(lambda: len(cluster.waiting()) == 1, 5)


def test_what_is_missing_is_told_while_other_slots_are_up(cluster: Cluster, make: Make) -> None:
    executor = make(gpus=1)
    stages = submit(executor, 1, HOLD)
    until(lambda: executor.waits_for() == "a node", 5)
    cluster.add("n", CPU=2)
    until(lambda: running(stages) == 1 and executor.waits_for() == "", 5)
    (training,) = submit(executor, 1, GO, gpu=True)
    until(lambda: executor.waits_for() == "a GPU node", 5)
    cluster.add("g", CPU=1, GPU=1)
    assert training.result(5) == {"node": "g"}
    until(lambda: executor.waits_for() == "", 5)


@pytest.mark.parametrize("max_slots", [None, 3])
def test_trainings_that_wait_for_a_gpu_node_do_not_hold_up_the_rest(
    cluster: Cluster, make: Make, max_slots: int | None
) -> None:
    cluster.add("n", CPU=2)
    executor = make(max_slots, gpus=1)
    trainings = submit(executor, 3, GO, gpu=True)
    until(cluster.waiting, 5)
    for future in submit(executor, 3, GO):
        assert future.result(5)
    assert running(trainings) == 0


def test_gpu_workers_that_never_come_up_fail_trainings_only(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=2)
    executor = make(gpus=1)
    executor.submit(call(GO), ignore).result(5)
    cluster.can_start = False
    cluster.add("g", CPU=1, GPU=1)
    (training,) = submit(executor, 1, GO, gpu=True)
    with pytest.raises(RuntimeError, match="no worker comes up on the cluster: No module"):
        training.result(5)
    assert executor.submit(call(GO), ignore).result(5)


def test_timing_goes_on_when_the_kind_of_machine_it_began_on_comes_back(cluster: Cluster, make: Make) -> None:
    cluster.add("first", kind="a", CPU=1)
    executor = make()
    executor.submit(call(GO), ignore).result(5)
    cluster.add("other", kind="b", CPU=1)
    held = submit(executor, 2, HOLD)
    until(lambda: running(held) == 2, 5)
    cluster.lose("first")
    cluster.release()
    until(lambda: all(future.done() for future in held), 5)
    (timed,) = submit(executor, 1, GO, exclusive=True)
    until(lambda: executor.waits_for() == "a node", 5)
    assert not timed.done()
    cluster.add("again", kind="a", CPU=1)
    assert timed.result(5) == {"node": "again"}


def test_without_the_kind_of_machine_that_timed_the_others_timing_is_given_up(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ray_slots._GIVE_UP_TIMING >= 900
    monkeypatch.setattr(ray_slots, "_GIVE_UP_TIMING", 0.3)
    cluster.add("first", kind="a", CPU=1)
    executor = make()
    executor.submit(call(GO), ignore).result(5)
    cluster.lose("first")
    cluster.add("other", kind="b", CPU=1)
    executor.submit(call(GO), ignore).result(5)
    (timed,) = submit(executor, 1, GO, exclusive=True)
    with pytest.raises(StageTimeout, match="no node of the kind that timed the others is left"):
        timed.result(5)


def test_a_study_after_an_idle_time_times_on_what_is_there(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "_FORGET_AFTER", 0.1)
    cluster.add("first", kind="a", CPU=1)
    executor = make(warm=0.1)
    executor.submit(call(GO, exclusive=True), ignore).result(5)
    cluster.lose("first")
    cluster.add("other", kind="b", CPU=1)
    until(lambda: not executor._slots and executor._fleet.device is None, 5)
    assert until(executor.device, 5).cpu == "b"
    assert executor.submit(call(GO, exclusive=True), ignore).result(5) == {"node": "other"}


def test_no_worker_starts_beside_what_is_being_timed(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=4)
    executor = make()
    executor.submit(call(GO), ignore).result(5)
    (timed,) = submit(executor, 1, HOLD, exclusive=True)
    until(timed.running, 5)
    before = len(cluster.actors)
    others = submit(executor, 3, GO)
    looked(executor)
    assert len(cluster.actors) == before
    cluster.release()
    for future in [timed, *others]:
        assert future.result(5)


def test_the_second_worker_of_a_slot_does_not_start_beside_what_is_being_timed(cluster: Cluster, make: Make) -> None:
    cluster.add("n", CPU=2)
    executor = make(gpus=1)
    (timed,) = submit(executor, 1, HOLD, exclusive=True)
    until(timed.running, 5)
    (training,) = submit(executor, 1, GO, gpu=True)
    (asking,) = until(cluster.waiting, 5)
    before = len(cluster.actors)
    cluster.add("n", CPU=2, GPU=1)
    until(lambda: asking.node and any(slot.has_gpu and slot.placement for slot in executor._slots), 5)
    looked(executor)
    assert len(cluster.actors) == before
    assert not training.done()
    cluster.release()
    assert timed.result(5) == training.result(5) == {"node": "n"}


def out_of_reach() -> list[dict[str, Any]]:
    raise ConnectionError("out of reach")


def test_a_stage_ends_even_if_the_cluster_is_out_of_reach(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add("n", CPU=3)
    executor = make()
    stopped, died = submit(executor, 2, HOLD)
    (hung,) = submit(executor, 1, HOLD, seconds=0.5)
    until(lambda: running([stopped, died, hung]) == 3, 5)
    (actor,) = {
        id(a): a
        for a in cluster.actors
        for slot in executor._slots
        if slot.job and slot.job.future is died and a in slot.workers.values() and a.calls
    }.values()
    cluster.can_kill = False
    with pytest.raises(StageTimeout):
        hung.result(5)
    executor.stop(stopped)
    with pytest.raises(CancelledError):
        stopped.result(5)
    monkeypatch.setattr(ray, "nodes", out_of_reach)
    cluster.end(actor)
    with pytest.raises(WorkerDied):
        died.result(5)
