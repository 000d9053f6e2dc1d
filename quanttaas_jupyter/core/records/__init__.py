"""Records that cross rooms: frozen dataclasses that ``of`` reads from JSON and ``stored`` writes, at the edges alone.

Edges are the store, the call of a worker, events and REST. Unknown keys of stored JSON are ignored. Each record has a
module of its own, so that a stage's key changes with those records alone that the stage reads.
"""
