"""Shards: files of some batches each, which hold tensors and no code, and are mapped into memory by who reads them.

No process holds a data set: a writer holds one shard, a reader maps one shard and forgets it for the next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.scratch import PREFIX, usable
from ..store import blobs
from ..store.base import Progress, Store
from .batches import Batch, Batches, LazyBatches, Leaf, Outline

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 64 << 20
"""Bytes of tensors per shard; chosen, not tuned. Smaller shards cost more requests, larger ones more memory."""
_SENT_AT_ONCE = 4
"""Shards that are sent at the same time; chosen, not tuned. They lie in files meanwhile."""

Open = Callable[[], "_Shard"]
"""Opens a shard."""


class ShardWriter:
    """Writes batches to a store as they come, several shards at a time."""

    def __init__(self, store: Store, like: Batches, upload: Callable[[], Progress] | None = None) -> None:
        """Write to a store; ``like`` says how inputs and targets are nested, whatever batches it holds.

        Args:
            store: The store.
            like: A data set with these names and structures.
            upload: Called for each shard; returns the progress callback of its upload.
        """
        self._store, self._like, self._upload = store, like, upload
        self._pool = ThreadPoolExecutor(_SENT_AT_ONCE, thread_name_prefix="shards")
        self._sent: list[Future[str]] = []
        self._part: list[Batch] = []
        self._outlines: list[list[Outline]] = []
        self._is_labelled = False

    def add(self, batch: Batch) -> None:
        """Write a batch, after those before it. Raises StoreError where the store cannot take them."""
        self._is_labelled |= bool(batch.targets)
        if _is_full(self._part, batch):
            self._flush()
        self._part.append(batch)

    def finish(self) -> dict[str, Any]:
        """Write what is left, wait until all is stored, and return the reference that ``read_batches`` takes."""
        with self._pool:
            if self._part:
                self._flush()
            shards = [future.result() for future in self._sent]
        outlines = json.dumps([list(map(_listed, part)) for part in self._outlines], separators=(",", ":"))
        return {
            "digest": hashlib.sha256(b"".join(map(bytes.fromhex, shards))).hexdigest(),
            "shards": shards,
            "samples": sum(outline.samples for part in self._outlines for outline in part),
            "labelled": self._is_labelled,
            "outlines": blobs.put_bytes(self._store, outlines.encode()),
            "bytes": sum(outline.bytes for part in self._outlines for outline in part),
        }

    def _flush(self) -> None:
        self._outlines.append(list(map(Outline.of, self._part)))
        path = usable(self._store.scratch) / f"{PREFIX}shard-{uuid.uuid4().hex}"
        _pack_to(path, self._part, self._like)
        self._part = []
        # Who adds faster than the store takes would fill the disk.
        while len(waiting := [future for future in self._sent if not future.done()]) >= _SENT_AT_ONCE:
            waiting[0].result()
        self._sent.append(self._pool.submit(self._put, path))

    def _put(self, path: Path) -> str:
        try:
            return blobs.give_file(self._store, path, self._upload() if self._upload else None)
        finally:
            path.unlink(missing_ok=True)


class Spool:
    """Batches on their way to the store: in memory while they are few, in files of this machine beyond one shard."""

    def __init__(self, folder: Path | None, like: Batches) -> None:
        """Keep batches that are nested as those of ``like``, in files below ``folder``."""
        self._parent, self._like = folder, like
        self._folder: Path | None = None
        self._shards: list[Path] = []
        self._outlines: list[list[Outline]] = []
        self._part: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Keep a batch, after those before it."""
        if _is_full(self._part, batch):
            self._flush()
        self._part.append(batch)

    def batches(self) -> Batches:
        """Return all batches; the files are removed when nobody holds them any more."""
        made: Sequence[Batch] = tuple(self._part)
        if self._folder is not None:
            outlines = [*self._outlines, list(map(Outline.of, self._part))]
            opens = [partial(_Shard, path) for path in self._shards]
            stored = _Stored(opens, self._outlines, self._part, _Folder(self._folder))
            made = LazyBatches([outline for part in outlines for outline in part], stored)
        return dataclasses.replace(self._like, batches=made)

    def _flush(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}data-", dir=usable(self._parent)))
        path = self._folder / f"{len(self._shards):06d}"
        _pack_to(path, self._part, self._like)
        self._shards.append(path)
        self._outlines.append(list(map(Outline.of, self._part)))
        self._part = []


class _Folder:
    """Removes a folder when the last one who holds this lets it go."""

    def __init__(self, path: Path) -> None:
        self._remove = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)


def write_batches(store: Store, batches: Batches, upload: Callable[[], Progress] | None = None) -> dict[str, Any]:
    """Store batches as shards.

    Args:
        store: The store.
        batches: The batches.
        upload: Called for each shard; returns the progress callback of its upload.

    Returns:
        The reference that ``read_batches`` takes: digest of the content, shards, number of samples, and whether it has
        labels.
    """
    writer = ShardWriter(store, batches, upload)
    for batch in batches.batches:
        writer.add(batch)
    return writer.finish()


def read_batches(store: Store, reference: Mapping[str, Any]) -> Batches:
    """Return batches that ``write_batches`` stored; their values are read when they are asked for.

    Raises:
        MissingKey: A blob was deleted.
    """
    opens = [_fetches(store, sha) for sha in reference["shards"]]
    first = opens[0]()
    if "outlines" in reference:
        outlines = [list(map(_unlisted, part)) for part in json.loads(blobs.get_bytes(store, reference["outlines"]))]
    else:
        outlines = [first.outlines(), *(open_().outlines() for open_ in opens[1:])]
    made = LazyBatches([outline for part in outlines for outline in part], _Stored(opens, outlines))
    return dataclasses.replace(first.like(), batches=made)


class _Stored:
    """Makes batches of shards, of which the one used last stays open; then those of a rest in memory."""

    def __init__(
        self,
        opens: Sequence[Open],
        outlines: Sequence[Sequence[Outline]],
        rest: Sequence[Batch] = (),
        folder: _Folder | None = None,
    ) -> None:
        self._opens, self._rest, self._folder = opens, rest, folder
        self._places = [(shard, at) for shard, part in enumerate(outlines) for at in range(len(part))]
        self._opened: tuple[int, _Shard] | None = None

    def __call__(self, position: int) -> Batch:
        if position >= len(self._places):
            return self._rest[position - len(self._places)]
        shard, at = self._places[position]
        opened = self._opened
        if opened is None or opened[0] != shard:
            self._opened = opened = None
            self._opened = opened = shard, self._opens[shard]()
        return opened[1].batch(at)


class _Shard:
    """An open shard: its tensors are mapped into memory, and read when they are used."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._file = safe_open(str(path), framework="pt")
        self._about: dict[str, Any] = json.loads(self._file.metadata()["batches"])
        self._names: dict[int, list[str]] = {}
        for name in sorted(self._file.keys()):
            self._names.setdefault(int(name.partition(".")[0]), []).append(name)

    def __len__(self) -> int:
        return len(self._names)

    def like(self) -> Batches:
        """Return a data set without batches that is nested as these are."""
        about = self._about
        sizes = tuple({int(at): tuple(ends) for at, ends in leaf.items()} for leaf in about.get("sizes", ()))
        dims, is_cut = tuple(about.get("dims", ())), about.get("is_cut", True)
        return Batches((), tuple(about["names"]), about["inputs"], about["targets"], dims, is_cut, sizes)

    def batch(self, position: int) -> Batch:
        leaves: dict[str, dict[str, Any]] = {"i": {}, "t": {}}
        for name in self._names[position]:
            _, kind, leaf, *sample = name.split(".")
            tensor = self._file.get_tensor(name)
            if sample:
                leaves[kind].setdefault(leaf, []).append(tensor)
            else:
                leaves[kind][leaf] = tensor
        return Batch(list(leaves["i"].values()), list(leaves["t"].values()), self._about.get("dim", 0))

    def outlines(self) -> list[Outline]:
        return [Outline.of(self.batch(position)) for position in range(len(self))]


def _fetches(store: Store, sha: str) -> Open:
    def open_() -> _Shard:
        # Mapped once, the bytes stay readable when the file is gone.
        with blobs.blob_file(store, sha) as path:
            return _Shard(path)

    return open_


def _is_full(part: Sequence[Batch], batch: Batch) -> bool:
    """Return whether a batch would make a shard too large."""
    return bool(part) and sum(item.bytes for item in part) + batch.bytes > SHARD_BYTES


def _pack_to(path: Path, part: list[Batch], like: Batches) -> None:
    from safetensors.torch import save_file

    save_file(_tensors(part), str(path), metadata=_metadata(part, like))


def _tensors(part: list[Batch]) -> dict[str, torch.Tensor]:
    return {
        ".".join([f"{index:06d}", kind, f"{position:03d}", *sample]): tensor.contiguous()
        for index, batch in enumerate(part)
        for kind, leaves in (("i", batch.inputs), ("t", batch.targets))
        for position, leaf in enumerate(leaves)
        for sample, tensor in _parts(leaf)
    }


def _metadata(part: list[Batch], like: Batches) -> dict[str, str]:
    # One metadata key: safetensors writes several in random order, which would change the digest.
    about: dict[str, Any] = {"names": like.names, "inputs": like.inputs, "targets": like.targets}
    if like.dims or not like.is_cut:
        about |= {"dims": like.dims, "is_cut": like.is_cut, "dim": part[0].dim}
    if like.sizes:
        about["sizes"] = like.sizes
    return {"batches": json.dumps(about)}


def _parts(leaf: Leaf) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(leaf, list):
        yield from (((f"{sample:06d}",), tensor) for sample, tensor in enumerate(leaf))
    else:
        yield (), leaf


def _listed(outline: Outline) -> list[Any]:
    shapes = [list(shape) if isinstance(shape, tuple) else shape for shape in outline.shapes]
    return [outline.samples, shapes, outline.bytes]


def _unlisted(found: list[Any]) -> Outline:
    shapes = tuple(tuple(shape) if isinstance(shape, list) else int(shape) for shape in found[1])
    return Outline(int(found[0]), shapes, int(found[2]))
