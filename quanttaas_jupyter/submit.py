"""From objects in a kernel to a study in a store: what is checked at once, and what is sent in the background."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .bundle import batches as data
from .bundle import metric as metrics
from .bundle import model as models
from .bundle.data import Source, open_source
from .bundle.function import Function
from .bundle.structure import flatten, unflatten
from .compute.clusters import Cluster
from .engine import cache, measure, portable
from .engine.failures import StageError
from .engine.plan import refuse_unbuilt
from .errors import ClusterError, DataError, MetricError, ModelError, QuantTaaSError, RecipeError
from .recipe import Prune, Recipe, recover_function
from .state import StudyState
from .store import Store, blobs, studies
from .versions import differences, minor, versions

CALIBRATION_SAMPLES = 512
_CALIBRATION_SHARE = 0.2
_CHECK_SAMPLES = 8
_TRAIN_TIMES = 5
_TRAIN_BYTES = 1 << 30
_FORMAT = 1

Tell = Callable[[str], None]


@dataclass
class Prepared:
    """A study that passed every early check. The model is a snapshot already; the data is still being read."""

    recipe: Recipe
    name: str
    snapshot: models.ModelSnapshot
    sources: dict[str, Source]
    metric: dict[str, Any]
    metric_pickle: bytes | None
    is_classifier: bool
    recovery: Function | None
    example: data.Batch | None
    created: float
    id: str = field(default_factory=lambda: secrets.token_hex(4))

    def draft(self, cluster: str, who: str) -> dict[str, Any]:
        """The record as far as it is known before the data is read."""
        return {
            "format": _FORMAT,
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "who": who,
            "cluster": cluster,
            "versions": {key: value for key, value in versions().items() if key in ("python", "torch", "quanttaas")},
            "recipe": self.recipe.model_dump(mode="json"),
            "model": {**self.snapshot.about, "digest": self.snapshot.digest},
            "metric": self.metric,
            "is_classifier": self.is_classifier,
            "notes": [],
        }


def prepare(
    model: Any,
    data_: Any,
    recipe: Any,
    calibration: Any,
    train: Any,
    metric: Any,
    example_inputs: Any,
    name: str | None,
) -> Prepared:
    """Check everything that can be checked at once, and take the snapshot of the model.

    Raises:
        QuantTaaSError: One sentence: what is wrong, what was expected.
    """
    created = time.time()
    parsed = Recipe.parse(recipe)
    refuse_unbuilt(parsed)
    if data_ is None:
        raise DataError("no evaluation data; give data=test_loader (in a cell: --data test_loader)")
    module = models.unwrapped(model)
    _refuse_unknown_modules(module, parsed.ignore)
    given = {"eval": data_, "calibration": calibration, "train": train}
    options = {"eval": "--data", "calibration": "--calibration", "train": "--train"}
    sources = {
        key: open_source(value, options[key], parsed.max_samples, parsed.seed)
        for key, value in given.items()
        if value is not None
    }
    if "train" in sources:
        sources["train"] = _with_more(sources["train"], train, parsed)
    snapshot = models.snapshot(module)
    first = sources["eval"].first()
    found, pickled = metrics.reference(metric, first)
    example = _example(example_inputs, first) if example_inputs is not None else None
    outputs = _try_out(snapshot, first, example)
    _try_metric(found, metric, first, outputs)
    return Prepared(
        recipe=parsed,
        name=_checked_name(name or type(module).__name__),
        snapshot=snapshot,
        sources=sources,
        metric=found,
        metric_pickle=pickled,
        is_classifier=_is_classifier(outputs, first),
        recovery=_recovery(recipe),
        example=example,
        created=created,
    )


class Submission:
    """Sends a prepared study in the background; ``state`` says how far it is until the store can."""

    def __init__(self, prepared: Prepared, store: Store, cluster: Cluster, who: str) -> None:
        self._prepared, self._store, self._cluster = prepared, store, cluster
        self.record: dict[str, Any] = prepared.draft(cluster.name, who)
        self._message = "reading the data"
        self._error: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"submit-{prepared.id}")

    def start(self) -> Submission:
        """Begin to send; the process waits for it before it exits."""
        self._thread.start()
        return self

    @property
    def is_done(self) -> bool:
        """Whether the study stands in the store."""
        return self._done.is_set() and self._error is None

    def state(self, before: StudyState) -> StudyState:
        """What to show while the store knows nothing of the study."""
        if self._error is not None:
            return dataclasses.replace(before, status="failed", error=self._error, message=self._error)
        return dataclasses.replace(before, status="queued", message=self._message)

    def _run(self) -> None:
        try:
            side = ThreadPoolExecutor(1, thread_name_prefix="engine")
            engine = side.submit(self._cluster.ensure_engine, self._store.uri)
            side.shutdown(wait=False)
            found, notes = read(self._prepared, self._tell)
            self._tell(f"waiting for an engine on {self._cluster.name}")
            there = engine.result()
            self._cluster.refuse_store(self._store.uri, there)
            is_portable = _has_to_be_portable(self._prepared, there, self._cluster.name)
            self.record = send(self._prepared, self._store, self.record, found, notes, self._tell, is_portable)
            sha256 = studies.create_study(self._store, self._prepared.id, self.record)
            self._cluster.hand_over(self._store, self._prepared.id, sha256)
        except QuantTaaSError as error:
            self._error = str(error)
        except Exception as error:
            self._error = f"the study could not be submitted: {type(error).__name__}: {error}"
        finally:
            self._done.set()

    def _tell(self, message: str) -> None:
        self._message = message


def _with_more(source: Source, train: Any, recipe: Recipe) -> Source:
    """Training data up to several times ``max_samples``, as far as memory allows: recovery gains by every sample."""
    if source.total is None or source.total < recipe.max_samples:
        return source
    first = source.first()
    size = sum(leaf.numel() * leaf.element_size() for batch in first.batches for leaf in batch.leaves)
    fitting = int(_TRAIN_BYTES / max(1.0, size / first.samples))
    limit = min(_TRAIN_TIMES * recipe.max_samples, fitting)
    return open_source(train, "--train", limit, recipe.seed) if limit > recipe.max_samples else source


def bundle(prepared: Prepared, store: Store, draft: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Read the data, write all blobs; returns the complete record. What the store has is not sent again."""
    return send(prepared, store, draft, *read(prepared, tell), tell)


def read(prepared: Prepared, tell: Tell) -> tuple[dict[str, data.Batches], list[str]]:
    """Read the data and set parts of it aside; returns data sets by their duty, and notes on where they come from."""
    found: dict[str, data.Batches] = {}
    for key, source in prepared.sources.items():
        label = "--data" if key == "eval" else f"--{key}"

        def progress(samples: int, total: int | None, label: str = label) -> None:
            tell(f"reading {label}: {samples}{f' of {total}' if total else ''} samples")

        found[key] = source.read(progress)
    notes = _set_calibration_aside(found, prepared.recipe.seed)
    if prepared.recipe.search == "auto":
        notes += _set_guide_aside(found, prepared.recipe.seed)
    if prepared.example is not None:
        found["calibration"] = _led_by(prepared.example, found["calibration"])
    return found, notes


def send(
    prepared: Prepared,
    store: Store,
    draft: dict[str, Any],
    found: Mapping[str, data.Batches],
    notes: list[str],
    tell: Tell,
    is_portable: bool = False,
) -> dict[str, Any]:
    """Write all blobs, several at a time; returns the complete record. What the store has is not sent again."""
    model = _portable(prepared, store, found, tell) if is_portable else _stored(prepared, store, tell)
    references = {}
    for key, batches in found.items():
        tell(f"sending {batches.samples} samples")
        references[key] = data.write(store, batches)
    if is_portable:
        notes = [*notes, f"{portable.WHY_NOT}; {portable.WHAT_INSTEAD}"]
    recipe = draft["recipe"]
    if is_portable and prepared.recipe.search == "auto":
        # A search would propose amount after amount, each in vain.
        recipe = {**recipe, "prune": [Prune(amount=0).model_dump(mode="json")]}
    return {
        **draft,
        "recipe": recipe,
        "model": {**draft["model"], **model},
        "metric": metrics.stored(store, prepared.metric, prepared.metric_pickle),
        **({"recover": prepared.recovery.stored(store)} if prepared.recovery else {}),
        "data": references,
        "notes": notes,
    }


def _has_to_be_portable(prepared: Prepared, there: Mapping[str, str], cluster: str) -> bool:
    """Whether the model has to travel as an exported program, given the versions on the other side.

    Raises:
        ClusterError: What differs cannot be bridged.
    """
    here = versions()
    if found := differences(here, there):
        raise ClusterError(
            f"cluster {cluster!r} does not fit this kernel: {'; '.join(found)}. Install what it has here, "
            "or use an image with what is here; nothing was sent"
        )
    if minor(here["python"]) == minor(there["python"]):
        return False
    pythons = f"Python is {minor(here['python'])} here and {minor(there['python'])} on cluster {cluster!r}"
    if prepared.recovery or prepared.metric_pickle:
        what = "recovery" if prepared.recovery else "metric"
        raise ClusterError(f"{pythons}, so the notebook's own {what} cannot travel; use the same version on both sides")
    if prepared.recipe.ignore:
        raise ClusterError(f"{pythons}, so the modules under 'ignore' are unknown there; use the same version")
    return True


def _portable(prepared: Prepared, store: Store, found: Mapping[str, data.Batches], tell: Tell) -> dict[str, Any]:
    tell("exporting the model for another version of Python")
    try:
        program, about = portable.pack(models.loads(prepared.snapshot.data), found["calibration"])
    except StageError as error:
        raise ModelError(f"the model cannot travel to another version of Python: {error}") from None
    return {"blob": blobs.put_bytes(store, program, _megabytes(tell)), "portable": about}


def _stored(prepared: Prepared, store: Store, tell: Tell) -> dict[str, Any]:
    tell("sending the model")
    return {"blob": _store_model(store, prepared.snapshot, _megabytes(tell))}


def _megabytes(tell: Tell) -> Callable[[int, int], None]:
    return lambda done, total: tell(f"sending the model: {done / 1e6:.0f} of {total / 1e6:.0f} MB")


def _store_model(store: Store, snapshot: models.ModelSnapshot, progress: Callable[[int, int], None]) -> str:
    """The blob of a model; another pickle of the same model, from another kernel, serves as well."""
    key = hashlib.sha256(f"model {snapshot.digest}".encode()).hexdigest()
    known = cache.find(store, key)
    if known is not None:
        store.touch(f"blobs/{known['blobs']['model']}")
        return str(known["blobs"]["model"])
    sha = blobs.put_bytes(store, snapshot.data, progress)
    cache.keep(store, key, {"blobs": {"model": sha}})
    return sha


def _set_calibration_aside(found: dict[str, data.Batches], seed: int) -> list[str]:
    """Make sure that there is calibration data, and say where it comes from when nobody named it."""
    if "calibration" in found:
        return []
    if "train" in found:
        samples = found["train"].samples
        _, found["calibration"] = found["train"].split(1.0, CALIBRATION_SAMPLES, seed)
        return [f"calibration: {found['calibration'].samples} of the {samples} samples of --train"]
    whole = found["eval"]
    if whole.samples < 2 or (not whole.is_sliceable() and len(whole.batches) < 2):
        raise DataError("--data holds a single sample; give more, or --calibration beside it")
    found["eval"], found["calibration"] = whole.split(_CALIBRATION_SHARE, 2 * CALIBRATION_SAMPLES, seed)
    return [
        f"calibration: {found['calibration'].samples} of the {whole.samples} samples of --data, "
        "left out of the evaluation; --calibration or --train names other data"
    ]


def _set_guide_aside(found: dict[str, data.Batches], seed: int) -> list[str]:
    """Halve the data that judges: one half guides the search, the other gives the reported numbers."""
    whole = found["eval"]
    if whole.samples < 4 or (not whole.is_sliceable() and len(whole.batches) < 2):
        raise DataError("search: auto needs --data of at least 4 samples, in at least 2 batches; or use search: grid")
    found["eval"], found["guide"] = whole.split(0.5, whole.samples, seed + 1)
    counts = found["guide"].samples, found["eval"].samples
    return [f"search: guided by {counts[0]} samples of --data, judged on the other {counts[1]}"]


def _led_by(example: data.Batch, calibration: data.Batches) -> data.Batches:
    stripped = [data.Batch(batch.inputs, []) for batch in calibration.batches]
    return dataclasses.replace(calibration, batches=(example, *stripped), targets=None)


def _example(example_inputs: Any, first: data.Batches) -> data.Batch:
    leaves, structure = flatten(example_inputs)
    wanted = first.inputs
    if wanted == "tensor" and isinstance(structure, list) and len(leaves) == 1:
        structure = wanted
    if structure != wanted:
        raise DataError(f"example_inputs are nested unlike the inputs of --data: {_shape_of(structure, wanted)}")
    return data.Batch([leaf.detach().cpu().clone() for _, leaf in leaves], [])


def _shape_of(mine: Any, theirs: Any) -> str:
    return f"{json.dumps(mine)} instead of {json.dumps(theirs)}"


def _refuse_unknown_modules(module: Any, ignore: tuple[str, ...]) -> None:
    names = {path for path, _ in module.named_modules() if path}
    classes = {type(child).__name__ for child in module.modules()}
    for name in ignore:
        if name not in names and name not in classes:
            near = difflib.get_close_matches(name, names | classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name a module such as 'layer1.conv' or a class"
            raise RecipeError(f"ignore: the model has no module or class {name!r}; {hint}")


def _try_out(snapshot: models.ModelSnapshot, first: data.Batches, example: data.Batch | None) -> Any:
    """Run the snapshot on a few samples, as a worker will."""
    import torch

    batch = example or first.head(_CHECK_SAMPLES).batches[0]
    try:
        model = models.loads(snapshot.data)
    except Exception as error:
        raise ModelError(f"the model cannot be sent: its copy does not load ({_short(error)})") from None
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = data.call(model, first.inputs, batch.inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in batch.inputs)
        raise DataError(
            f"the inputs of --data do not fit the model: {_short(error)} (inputs of shape {shapes})"
        ) from None
    for name, leaf in flatten(outputs)[0]:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            where = f" at {name}" if name else ""
            raise ModelError(f"the model's outputs{where} are NaN or infinite on the first samples; check its weights")
    return outputs


def _try_metric(found: dict[str, Any], metric: Any, first: data.Batches, outputs: Any) -> None:
    batch = first.head(_CHECK_SAMPLES).batches[0]
    if found["name"] == "agreement" or measure.main_output(outputs).shape[:1] != (batch.samples,):
        return
    function = metric[0] if isinstance(metric, tuple) else metric
    targets = None
    if first.has_targets:
        targets = unflatten(first.targets, list(batch.targets))
    try:
        measure.score(found, function, measure.Answers(outputs, targets))
    except StageError as error:
        # A few samples may lack a class or all variance; only what cannot fit is refused this early.
        if "cannot be computed" in error.reason or "do not fit" in error.reason:
            raise MetricError(str(error)) from None


def _is_classifier(outputs: Any, first: data.Batches) -> bool:
    main = measure.main_output(outputs)
    has_scores = bool(main.is_floating_point() and main.ndim >= 2 and main.shape[1] > 1)
    if not first.has_targets:
        return has_scores and main.ndim == 2
    return has_scores and not first.batches[0].targets[0].is_floating_point()


def _recovery(recipe: Any) -> Function | None:
    """The notebook's own recovery, ready to travel."""
    function = recover_function(recipe)
    if function is None:
        return None
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        raise RecipeError("recover: a function of the notebook takes model, teacher and batches") from None
    try:
        return Function.of(function)
    except Exception as error:
        raise RecipeError(f"recover: the function cannot be sent: {_short(error)}") from None


def _checked_name(name: str) -> str:
    cleaned = re.sub(r"\s+", " ", str(name)).strip()
    if not cleaned or len(cleaned) > 80:
        raise QuantTaaSError("the name of a study has 1 to 80 characters")
    return cleaned


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
