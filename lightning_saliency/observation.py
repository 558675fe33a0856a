"""Look at a model and leave no trace.

A monitor that changes what it watches is worse than none. Everything that an observation borrows
from a module and from the process (modes, buffers, gradients, random streams, backend flags) is
given back here, in one place, also when the body raises.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_saliency.shards import as_gathered, is_flattened, is_wrapper, without_gradients

LARGE = 64 * 2**20
"""Bytes that are copied at most. Beyond them, of a memory bank or a whole data set, the module's
own tensor is used: a copy would cost more than it protects. Inference tensors are copied whatever
their size, since no backward pass can go through them."""

_SEQUENCES = (list, deque)
_MAPPINGS = (dict, OrderedDict, defaultdict)

_MODULE_STATE = frozenset(nn.Module().__dict__)
"""What `nn.Module` itself keeps in an instance: parameters, hooks, children. Never copied."""

_HOOKS = tuple(name for name in _MODULE_STATE if "hooks" in name and "state_dict" not in name)
"""Registries of hooks on passes. Those on ``state_dict`` stay: FSDP adds its own when a module is
first called, which an observation may be."""


@contextmanager
def observing(module: nn.Module, *, seed: int = 0) -> Iterator[None]:
    """Put `module` and the process into the state of an observation, and back.

    Inside: evaluation mode (flag by flag: an overridden ``train()`` is not called), gradients on
    and inference mode off, copies of all buffers and of the tensors and containers that modules
    hold, no ``.grad``, fixed random streams, eager execution of compiled modules, silent ``log``.

    Afterwards, also after an exception: every one of these is what it was, value and identity.
    Parameters are not copied: nothing here or in the pass engine writes to them.

    Args:
        module: what is looked at. Its parameters tell the device whose random stream is kept.
        seed: seeds the borrowed random streams, so that a model that draws in evaluation mode
            gives the same map for the same weights.
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    with ExitStack() as scope:
        scope.enter_context(torch.inference_mode(False))
        scope.enter_context(torch.enable_grad())
        scope.enter_context(torch.compiler.set_stance("force_eager"))
        scope.enter_context(_backend_flags())
        scope.enter_context(borrowed_randomness(device, seed))
        scope.enter_context(_module_state(module))
        scope.enter_context(_parameter_state(module))
        yield


@contextmanager
def borrowed_randomness(device: torch.device | None = None, seed: int = 0) -> Iterator[None]:
    """Seed python's, numpy's, torch's and `device`'s random streams; afterwards restore them.

    Only the streams of the CPU and of `device` are seeded: ``torch.manual_seed`` would reseed every
    accelerator of the process.
    """
    with ExitStack() as scope:
        scope.callback(random.setstate, random.getstate())
        # The legacy stream is the one that data sets draw from.
        scope.callback(np.random.set_state, np.random.get_state())
        for generator in _generators(device):
            scope.callback(generator.set_state, generator.get_state())
            generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield


def _generators(device: torch.device | None) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    elif device is not None and device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators


@contextmanager
def _backend_flags() -> Iterator[None]:
    """Let input gradients of operations without a deterministic kernel pass; keep cudnn's flags.

    Under ``use_deterministic_algorithms(True)`` an input gradient may differentiate an operation
    that training never does, and raise in the middle of a run that is itself deterministic.
    """
    mode = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn
    flags, precision = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic), _float32_precision()
    if mode == 2:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags
        _restore_float32_precision(precision)


def _float32_precision() -> tuple[bool | None, dict[str, str]]:
    """Whether cudnn uses TF32: by the older flag, and by the newer ones of each operation.

    None for the older flag where the newer ones contradict it: then reading it raises.
    """
    cudnn = torch.backends.cudnn
    newer = {name: getattr(cudnn, name).fp32_precision for name in _operations()}
    try:
        return cudnn.allow_tf32, newer
    except RuntimeError:
        return None, newer


def _restore_float32_precision(precision: tuple[bool | None, dict[str, str]]) -> None:
    cudnn = torch.backends.cudnn
    older, newer = precision
    if _float32_precision() == precision:
        return
    if older is not None:
        cudnn.allow_tf32 = older
    for name, value in newer.items():
        if getattr(cudnn, name).fp32_precision != value:
            getattr(cudnn, name).fp32_precision = value


def _operations() -> list[str]:
    return [name for name in ("conv", "rnn") if hasattr(torch.backends.cudnn, name)]


@contextmanager
def _module_state(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, private buffers and private attributes for every submodule."""
    with ExitStack() as scope:
        parts = _parts(module)
        copies = _Copies(_shared_storages(parts))
        for part in parts:
            scope.callback(_restore, part, dict(part._buffers), _attributes(part))
        scope.enter_context(modes_and_hooks(parts))
        for part in parts:
            if hasattr(part, "training"):
                part.training = False
            for name, buffer in part._buffers.items():
                part._buffers[name] = copies.of(buffer)
            for name, value in _attributes(part).items():
                part.__dict__[name] = copies.of(value)
            if hasattr(part, "log_dict"):  # a LightningModule: what forward logs is not ours to say
                part.__dict__["log"] = part.__dict__["log_dict"] = _silent
        yield


@contextmanager
def modes_and_hooks(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards these modules are in the mode, and have the hooks, that they had before."""
    with ExitStack() as scope:
        for part in parts:
            if hasattr(part, "training"):  # a frozen TorchScript module has no mode
                scope.callback(setattr, part, "training", part.training)
            for name in _HOOKS:
                if name in part.__dict__:
                    scope.callback(_restore_hooks, part.__dict__[name], dict(part.__dict__[name]))
        yield


def _parts(module: nn.Module) -> list[nn.Module]:
    """All submodules, also those that `modules()` does not know: a teacher hidden in a list."""
    seen: dict[int, Any] = {}
    parts: list[nn.Module] = []
    frontier: list[Any] = [module]
    while frontier:
        value = frontier.pop()
        if id(value) in seen:
            continue
        held: Iterable[Any] = ()
        if isinstance(value, nn.Module):
            parts.append(value)
            held = (*value.children(), *_attributes(value).values())
        elif type(value) in (*_SEQUENCES, tuple):
            held = value
        elif type(value) in _MAPPINGS:
            held = value.values()
        else:
            continue
        seen[id(value)] = value
        frontier.extend(held)
    return parts


def _attributes(part: nn.Module) -> dict[str, Any]:
    if is_wrapper(part):
        return {}  # its book-keeping must go on, not come back
    return {name: value for name, value in part.__dict__.items() if name not in _MODULE_STATE}


def _restore(
    part: nn.Module, buffers: dict[str, Tensor | None], attributes: dict[str, Any]
) -> None:
    if hasattr(part._buffers, "clear"):
        part._buffers.clear()
        part._buffers.update(buffers)
    else:  # of TorchScript, where none can come or go
        for name, buffer in buffers.items():
            part._buffers[name] = buffer
    for name in _attributes(part).keys() - attributes.keys():
        del part.__dict__[name]
    part.__dict__.update(attributes)


def _restore_hooks(hooks: dict[int, Any], before: dict[int, Any]) -> None:
    """The same hooks in the same registry: handles of the user's refer to it."""
    if hooks != before:
        hooks.clear()
        hooks.update(before)


def _reach(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage from the first to the last that a tensor is made of."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    count = 1 + sum((side - 1) * stride for side, stride in sides) if tensor.numel() else 0
    size = tensor.element_size()
    low = int(tensor.storage_offset()) * size
    return low - low % 16, low + count * size  # a copy that begins there suits every dtype


def _shared_storages(parts: Iterable[nn.Module]) -> dict[int, tuple[int, int]]:
    """The storages that several held tensors are views of → the bytes that these reach."""
    found: dict[int, list[Tensor]] = defaultdict(list)
    seen: dict[int, Any] = {}
    frontier = [held for one in parts for held in (dict(one._buffers), _attributes(one))]
    while frontier:
        value: Any = frontier.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if type(value) in (*_SEQUENCES, tuple):
            frontier.extend(value)
        elif type(value) in _MAPPINGS:
            frontier.extend(value.values())
        elif type(value) is Tensor and _is_view_of_bytes(value):
            found[value.untyped_storage()._cdata].append(value)
    return {
        storage: (
            min(low for low, _ in map(_reach, views)),
            max(high for _, high in map(_reach, views)),
        )
        for storage, views in found.items()
        if len(views) > 1
    }


def _is_view_of_bytes(tensor: Tensor) -> bool:
    """Whether storage, dtype, shape and strides are all that makes a tensor."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    return plain and not (tensor.is_conj() or tensor.is_neg())


def _is_empty_shell(tensor: Tensor) -> bool:
    """Whether its memory was given back, as FSDP does with views of a flat parameter."""
    return _is_view_of_bytes(tensor) and _reach(tensor)[1] > tensor.untyped_storage().nbytes()


class _Copies:
    """Copies that may be written to; one and the same for aliases (tied buffers stay tied).

    Views of one storage are views of one copy: what is written to one is read from the others.

    Args:
        shared: as of `_shared_storages`.
    """

    def __init__(self, shared: Mapping[int, tuple[int, int]]) -> None:
        self._shared = shared
        self._made: dict[int, Any] = {}
        self._storages: dict[int, torch.UntypedStorage | None] = {}
        self._left = LARGE

    def of(self, value: Any) -> Any:
        """The copy of a value, or the value itself where it needs none."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        # Known before it is filled: a structure may hold itself.
        if type(value) in _SEQUENCES:
            items = self._made[id(value)] = copy.copy(value)
            items.clear()
            items.extend(self.of(item) for item in value)
            return items
        if type(value) in _MAPPINGS:
            entries = self._made[id(value)] = copy.copy(value)
            entries.update((key, self.of(item)) for key, item in value.items())
            return entries
        if type(value) is set:
            self._made[id(value)] = copy.copy(value)
            return self._made[id(value)]
        return tuple(self.of(item) for item in value) if type(value) is tuple else value

    def _of_tensor(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter) or type(tensor) is not Tensor:
            return tensor
        if _is_empty_shell(tensor):
            return tensor
        if _is_view_of_bytes(tensor) and tensor.untyped_storage()._cdata in self._shared:
            copied = self._of_view(tensor)
        # Of a sparse tensor that is more than it takes.
        elif self._may_copy(tensor.numel() * tensor.element_size(), tensor):
            copied = tensor.detach().clone()
        else:
            copied = tensor
        self._made[id(tensor)] = copied
        return copied

    def _of_view(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        low, high = self._shared[storage._cdata]
        if storage._cdata not in self._storages:
            raw = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            raw = raw.set_(storage, low, (high - low,), (1,))
            fits = self._may_copy(high - low, tensor)
            self._storages[storage._cdata] = raw.clone().untyped_storage() if fits else None
        copied = self._storages[storage._cdata]
        if copied is None:
            return tensor.detach().clone() if tensor.is_inference() else tensor
        offset = tensor.storage_offset() - low // tensor.element_size()
        made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return made.set_(copied, offset, tensor.shape, tensor.stride())

    def _may_copy(self, size: int, tensor: Tensor) -> bool:
        if size > self._left and not tensor.is_inference():
            return False
        self._left -= size
        return True


def _silent(*_: Any, **__: Any) -> None:
    """Stand in for ``LightningModule.log``: an observation adds nothing to the user's metrics."""


@contextmanager
def _parameter_state(module: nn.Module) -> Iterator[None]:
    """Take ``.grad`` away, so that a method of the user's that calls ``backward`` can't add to it.

    The gradients accumulated so far come back as the very tensors that they were.
    """
    with ExitStack() as scope:
        parts = _parts(module)
        scope.enter_context(as_gathered(parts))
        scope.enter_context(without_gradients(parts))
        owned = (one for part in parts for one in part.parameters(recurse=False))
        for parameter in {id(one): one for one in owned}.values():
            if is_flattened(parameter):
                continue
            scope.callback(_restore_parameter, parameter, parameter.requires_grad, parameter.grad)
            if parameter.grad is not None:
                parameter.grad = None
        yield


def _restore_parameter(parameter: nn.Parameter, requires_grad: bool, grad: Tensor | None) -> None:
    if parameter.requires_grad != requires_grad:
        parameter.requires_grad_(requires_grad)
    if parameter.grad is not grad:
        parameter.grad = grad


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory, of the device or of the host, was exhausted."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate" in str(error)
