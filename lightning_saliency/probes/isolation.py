"""Read data in this process and leave its randomness, and everybody else's, as it was.

Why not always a worker process: it would isolate all, but a user without workers may have reasons
that a fork breaks: tensors on a CUDA device, an archive whose file position would be shared, a
small /dev/shm, threads that hold locks.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Undo = Callable[[], None]

_STREAMS = (
    torch.Generator,
    np.random.Generator,
    np.random.BitGenerator,
    np.random.RandomState,
    random.Random,
)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_DATA = 1000  # elements from which a container holds data: a list of samples is not walked through
_LEAVES = (str, bytes, int, float, type(None), Tensor, np.ndarray, ModuleType)


@contextmanager
def own_randomness(seed: int, *owners: Any) -> Iterator[None]:
    """Seed the global streams for the scope, and put everything random back after it.

    Kept bit by bit, also when the body raises: torch's, numpy's and python's global streams, those
    of CUDA devices in use, every numpy and python generator alive in the process, and every
    `torch.Generator` that can be reached from `owners` (a dataset, its transforms, its collate
    function): through attributes, containers, closures, class attributes and the globals of their
    modules. Attributes of `owners`, and of datasets and callables within, that the body sets
    are set back, so a generator made at the first reading, or a counter, starts again. Out of
    reach: what is changed in place and is no generator; a `torch.Generator` in a container of more
    than 1000; generators inside compiled extensions.
    """
    undo = [*_keep_global_streams()]
    if owners:
        undo += _keep_owned(owners)
    _seed_global_streams(seed)
    try:
        with torch.inference_mode(False):  # a dataset's cache must not hold inference tensors
            yield
    finally:
        for put_back in undo:
            put_back()


def _keep_global_streams() -> Iterator[Undo]:
    yield _keep(torch.default_generator)
    for generator in torch.cuda.default_generators:  # empty until CUDA is in use
        yield _keep(generator)
    numpy_state, python_state = np.random.get_state(legacy=False), random.getstate()
    yield lambda: np.random.set_state(numpy_state)
    yield lambda: random.setstate(python_state)


def _seed_global_streams(seed: int) -> None:
    # `torch.manual_seed` would queue a seed for a CUDA that is not in use yet.
    for generator in (torch.default_generator, *torch.cuda.default_generators):
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _keep_owned(owners: tuple[Any, ...]) -> Iterator[Undo]:
    kinds = set(_with_subclasses(_STREAMS))
    found: dict[int, Any] = {id(one): one for one in gc.get_objects() if type(one) in kinds}
    for one in reachable(owners):
        if issubclass(type(one), _STREAMS):
            found[id(one)] = one
        elif any(one is owner for owner in owners) or _is_dataset_or_callable(one):
            yield from _keep_attributes(one)
    for one in found.values():
        if not issubclass(type(one), random.SystemRandom):  # has no state
            yield _keep(one)


def _keep(stream: Any) -> Undo:
    if isinstance(stream, torch.Generator):
        state: Any = stream.get_state()
        return lambda: _ignore(stream.set_state(state))
    if isinstance(stream, np.random.RandomState):
        state = stream.get_state(legacy=False)
        return lambda: stream.set_state(state)
    if isinstance(stream, random.Random):
        state = stream.getstate()
        return lambda: stream.setstate(state)
    bits = stream.bit_generator if isinstance(stream, np.random.Generator) else stream
    state = bits.state
    return lambda: setattr(bits, "state", state)


def _ignore(_: object) -> None: ...


def _keep_attributes(owner: Any) -> Iterator[Undo]:
    attributes = getattr(owner, "__dict__", None)
    if isinstance(attributes, dict):
        before = dict(attributes)
        yield lambda: _put_attributes_back(attributes, before)


def _put_attributes_back(attributes: dict[str, Any], before: dict[str, Any]) -> None:
    for name in [name for name in attributes if name not in before]:
        del attributes[name]
    for name, value in before.items():
        if name not in attributes or attributes[name] is not value:
            attributes[name] = value


def _is_dataset_or_callable(one: Any) -> bool:
    return issubclass(type(one), Dataset) or callable(one)


def reachable(roots: Iterable[Any]) -> Iterator[Any]:
    """Yield every object that `roots` hold, of modules and classes only their generators."""
    seen: set[int] = set()
    frontier = list(roots)
    while frontier:
        fresh = {id(one): one for one in frontier if id(one) not in seen}
        seen.update(fresh)
        yield from (one for one in fresh.values() if not issubclass(type(one), type))
        frontier = [one for one in _held(fresh.values()) if not _is_data(one)]


def _is_data(one: Any) -> bool:
    kind = type(one)
    return issubclass(kind, _LEAVES) or (kind in _CONTAINERS and len(one) > _DATA)


def _held(objects: Iterable[Any]) -> Iterator[Any]:
    plain: list[Any] = []
    for one in objects:
        if issubclass(type(one), type):
            yield from _streams_of_class(one)
        elif issubclass(type(one), FunctionType):
            yield from (one.__closure__, one.__defaults__, one.__kwdefaults__)
            yield from _streams(one.__globals__.values())
        else:
            plain.append(one)
    yield from gc.get_referents(*plain)


def _streams_of_class(kind: type) -> Iterator[Any]:
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__)
        names = vars(module).values() if module is not None else ()
        yield from _streams(chain(vars(base).values(), names))


def _streams(values: Iterable[Any]) -> Iterator[Any]:
    return (value for value in list(values) if issubclass(type(value), _STREAMS))


def _with_subclasses(kinds: Iterable[type]) -> Iterator[type]:
    for kind in kinds:
        yield kind
        yield from _with_subclasses(type.__subclasses__(kind))
