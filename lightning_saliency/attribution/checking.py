"""What is wrong with a call is told before the first pass, in the caller's words."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.subject import Subject, describe
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Output, Target, check_classes

_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32)


def check_inputs(inputs: object, chunk: object) -> None:
    """Raise a `ConfigurationError` unless there is at least one input, and a row in a pass."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 3:
        raise ConfigurationError(
            f"inputs is {describe(inputs)}; give a floating-point tensor (N, C, *spatial), such as "
            "images.float() or image[None]."
        )
    whole = isinstance(chunk, Integral) and not isinstance(chunk, bool)
    if not whole or int(chunk) < 1 or not len(inputs):  # type: ignore[call-overload]
        raise ConfigurationError(
            f"chunk={chunk!r} for {len(inputs)} probes: both are at least 1, and whole."
        )


def check_call(inputs: object, targets: object, chunk: object) -> None:
    """Raise a `ConfigurationError` unless there is a class for each of at least one input."""
    check_inputs(inputs, chunk)
    assert isinstance(inputs, Tensor)
    if not isinstance(targets, Tensor) or targets.shape != inputs.shape[:1]:
        raise ConfigurationError(
            f"targets is {describe(targets)} for {len(inputs)} inputs; give a tensor (N,) with the "
            "class of each. One example alone is inputs[None], targets[None]."
        )


def check_model(model: object) -> None:
    """Raise a `ConfigurationError` unless it is a module that can be differentiated."""
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"model is {describe(model)}, not a torch.nn.Module. Give the module itself, and say "
            "with forward=… what is called instead of model(x)."
        )
    if any(one.is_inference() for one in model.parameters()):
        raise ConfigurationError(
            f"The weights of {type(model).__name__} were made under torch.inference_mode(), and "
            "nothing can be differentiated through such tensors. Make or load the model outside of "
            "it; torch.no_grad() does no harm."
        )


def check_targets(subject: Subject, inputs: Tensor, targets: Tensor) -> None:
    """Raise where a target is not one of the model's classes, by a forward pass of one input.

    An index that is not there ends a CUDA process for good. What a user's own target takes is its
    affair.
    """
    if not isinstance(subject.target, Target) or isinstance(subject.target, Output):
        return
    if targets.is_floating_point():
        raise ConfigurationError(
            f"targets are {targets.dtype}: classes are whole numbers. For a regression use "
            "target='output'."
        )
    with torch.no_grad():
        check_classes(subject.scores(inputs[:1]), targets, "targets")


def as_indices(targets: Tensor) -> Tensor:
    """Classes as indices, `(N,)` int64: uint8 would wrap where −1 is meant. Others as they are."""
    return targets.long() if targets.dtype in _WHOLE else targets


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor without its graph; one of inference mode as a copy, which autograd can keep."""
    tensor = tensor.detach()
    return tensor.clone() if tensor.is_inference() else tensor
