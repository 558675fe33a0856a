"""How a model is called, and where its scores are in what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

from lightning_saliency.attribution.subject import describe
from lightning_saliency.errors import ConfigurationError, did_you_mean

Output: TypeAlias = int | str | Callable[[Any], Any] | None
Forward: TypeAlias = str | Callable[[nn.Module, Tensor], Any] | None


def called_by(module: nn.Module, forward: Forward) -> Callable[[nn.Module, Tensor], Any]:
    """How a module is called, by what the user said.

    Raises:
        ConfigurationError: there is nothing by that name, or it can't be called.
    """
    children = [name for name, _ in module.named_children()]
    if forward is None:
        if not _has_forward(module):
            raise ConfigurationError(
                f"forward=None calls {type(module).__name__}.forward(x), which is not written. Say "
                f"what to call: the name of a submodule or method. {did_you_mean('', children)}"
            )
        return lambda called, inputs: called(inputs)
    if callable(forward):
        return forward
    if not isinstance(forward, str):
        raise ConfigurationError(
            f"forward={forward!r} is a {type(forward).__name__}. Give the name of a submodule or "
            f"method, or a callable (pl_module, x) -> outputs. {did_you_mean(forward, children)}"
        )
    part: Any = module
    for name in forward.split("."):
        if not hasattr(part, name):
            raise ConfigurationError(
                f"forward={forward!r} is no submodule or method of {type(module).__name__}. "
                f"{did_you_mean(forward, children)}"
            )
        part = getattr(part, name)
    if not callable(part):
        raise ConfigurationError(
            f"forward={forward!r} is a {type(part).__name__}, which can't be called. "
            f"{did_you_mean(forward, children)}"
        )
    return lambda called, inputs: part(inputs)


def _has_forward(module: nn.Module) -> bool:
    """Whether `forward` is the user's own: the one that a LightningModule inherits only raises."""
    if "forward" in vars(module):  # a compiled module has it in the instance
        return True
    owner = next(parent for parent in type(module).__mro__ if "forward" in vars(parent))
    return owner is not nn.Module and owner.__name__ != "LightningModule"


def picked_by(output: Output) -> Callable[[Any], Any]:
    """How the scores are found in what a model returns, by what the user said.

    Raises:
        ConfigurationError: when it is called, that there are none; with what is there.
    """
    if output is None:
        return lambda outputs: outputs
    if callable(output):
        return output

    def pick(outputs: Any) -> Any:
        if isinstance(outputs, Tensor):
            raise ConfigurationError(
                f"output={output!r}: the model returns one tensor {tuple(outputs.shape)}, which is "
                "taken as its scores. Leave output=… out."
            )
        try:
            return outputs[output]
        except (KeyError, IndexError, TypeError):
            pass
        if isinstance(output, str) and hasattr(outputs, output):
            return getattr(outputs, output)
        raise ConfigurationError(
            f"output={output!r} is not in what the model returns, {describe(outputs)}. "
            f"{did_you_mean(output, _keys(outputs))}"
        )

    return pick


def _keys(outputs: Any) -> list[str]:
    """What `output` could have been."""
    if hasattr(outputs, "keys"):
        return [str(key) for key in outputs]
    if isinstance(outputs, (tuple, list)):
        return [*getattr(outputs, "_fields", ()), *map(str, range(len(outputs)))]
    return [name for name in getattr(outputs, "__dict__", {}) if not name.startswith("_")]
