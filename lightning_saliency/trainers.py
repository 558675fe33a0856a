"""What a Trainer knows: its data, its precision, its step. Read in one place, changed nowhere.

Works with the Trainer of either namespace, `lightning.pytorch` and `pytorch_lightning`, so nothing
here asks for a class of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_saliency.alerts.tiers import Conduct
from lightning_saliency.attribution import Subject
from lightning_saliency.calling import Forward, Output, called_by, picked_by
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.ranks import Ranks

Trainer: TypeAlias = Any
Module: TypeAlias = Any

TRIED = ("SingleDeviceStrategy", "DDPStrategy", "FSDPStrategy", "ModelParallelStrategy")
"""Strategies whose observations were compared with those of one process."""

SHARDED = ("FSDPStrategy", "ModelParallelStrategy")
"""Those of them where each rank holds a part of the parameters."""


def untried_strategy(trainer: Trainer) -> str | None:
    """The name of the Trainer's strategy if the monitor must keep off it."""
    strategy = trainer.strategy
    if not _is_a(strategy, *TRIED):
        return type(strategy).__name__
    parallel = getattr(strategy, "_tensor_parallel_size", 1)
    return (
        f"{type(strategy).__name__} with tensor parallelism"
        if parallel not in (1, "auto")
        else None
    )


def ranks_of(trainer: Trainer) -> Ranks:
    """The processes of the Trainer."""
    strategy, sharded = trainer.strategy, _is_a(trainer.strategy, *SHARDED)
    return Ranks(trainer.global_rank, trainer.world_size, sharded, strategy.root_device)


def watched(trainer: Trainer) -> nn.Module:
    """The module with all that a pass through it may change: FSDP's wrapper, or the user's own."""
    wrapper, own = trainer.strategy.model, trainer.lightning_module
    found: nn.Module = wrapper if _is_a(wrapper, "FullyShardedDataParallel") else own
    return found


def _is_a(value: object, *names: str) -> bool:
    """By name: either namespace of Lightning has a class of its own."""
    return any(parent.__name__ in names for parent in type(value).__mro__)


def stand_before_averaging(trainer: Trainer, callback: object) -> None:
    """Move `callback` before every callback that swaps averaged weights in for the validation.

    Such a callback swaps back in `on_validation_epoch_end`; what stands after it sees raw weights
    beside the averaged model's loss. The list is rebound, not changed: it is being walked.
    """
    others = [other for other in trainer.callbacks if other is not callback]
    averaging = [index for index, other in enumerate(others) if _averages(other)]
    if averaging and trainer.callbacks.index(callback) > averaging[0]:
        trainer.callbacks = [*others[: averaging[0]], callback, *others[averaging[0] :]]


def never_averaged(trainer: Trainer) -> str | None:
    """What to say of an averaging callback whose average has not been updated yet."""
    for callback in trainer.callbacks:
        average = getattr(callback, "_average_model", None)
        if _averages(callback) and average is not None and int(average.n_averaged) == 0:
            return (
                f"{type(callback).__name__} has not averaged anything yet, so the validation sees "
                "weights from before the training: no drift is to be seen until it has."
            )
    return None


def _averages(callback: object) -> bool:
    return _is_a(callback, "WeightAveraging")


def step_of(trainer: Trainer) -> int:
    """The x of the validation's own scalars, so that pictures and curves stand side by side."""
    named = trainer.callback_metrics.get("step")
    if named is not None:
        return int(named)
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def step_of_checkpoint(checkpoint: dict[str, Any]) -> int:
    """The same x, of the moment at which a checkpoint was written."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
    return int(loop.get("_batches_that_stepped", checkpoint.get("global_step", 0)))


def conduct_of(trainer: Trainer) -> Conduct:
    """What the training does now."""
    groups = [group for one in trainer.optimizers for group in one.param_groups]
    learning = (one.numel() for one in trainer.lightning_module.parameters() if one.requires_grad)
    return Conduct(tuple(float(group.get("lr", nan)) for group in groups), sum(learning))


class Moment(NamedTuple):
    """When an observation is made: the x of its numbers, and what people call it."""

    step: int
    label: str


def moment_of(trainer: Trainer) -> Moment:
    """The validation of a fit that is just done."""
    whole = trainer.val_check_batch == trainer.num_training_batches
    label = f"epoch {trainer.current_epoch}" if whole else f"step {trainer.global_step}"
    return Moment(step_of(trainer), label)


def validates_no_more(trainer: Trainer) -> bool:
    """Whether this validation is the last one of the fit, as far as is known by now."""
    epochs, every = trainer.max_epochs, trainer.check_val_every_n_epoch
    interval = trainer.val_check_batch  # in training batches; None where it is a time
    if trainer.should_stop or interval is None:
        return bool(trainer.should_stop)
    if trainer.max_steps >= 0:
        whole = interval == trainer.num_training_batches
        batches = interval * every if whole and every else interval
        steps = max(1, batches / trainer.accumulate_grad_batches)
        if trainer.global_step + steps > trainer.max_steps:
            return True
    if epochs is None or epochs < 0 or every is None:
        return False
    if not trainer.enable_validation:
        return bool(trainer.current_epoch + 1 >= epochs)
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    no_more_in_epoch = done + interval > trainer.num_training_batches
    return bool(no_more_in_epoch and trainer.current_epoch + every >= epochs)


@contextmanager
def averaged(trainer: Trainer, pl_module: Module) -> Iterator[None]:
    """Let the module hold averaged weights, as validations see it, at the end of a fit."""
    swaps = [
        callback._swap_models
        for callback in trainer.callbacks
        if _averages(callback)
        and getattr(callback, "_average_model", None) is not None
        and hasattr(callback, "_swap_models")
    ]
    for swap in swaps:
        swap(pl_module)
    try:
        yield
    finally:
        for swap in swaps:
            swap(pl_module)


def batch_size(trainer: Trainer, stage: str) -> int | None:
    """Of the first loader of the validation or of the test, if it has one."""
    loaders = loaders_of(trainer, stage)
    size = getattr(loaders[0], "batch_size", None) if loaders else None
    return size if isinstance(size, int) else None


def ends_epoch(trainer: Trainer) -> bool:
    """Whether this validation is the last one of its epoch."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def check_best_is_chosen(trainer: Trainer) -> None:
    """Raise where no ModelCheckpoint chooses a best one by a metric."""
    monitors = [getattr(callback, "monitor", None) for callback in trainer.checkpoint_callbacks]
    if not any(monitors):
        raise ConfigurationError(
            "reference='best' needs a ModelCheckpoint(monitor=…) that says which checkpoint is the "
            "best one. Add it to the Trainer's callbacks, or use reference='first'."
        )


def validates(pl_module: Module) -> bool:
    """Whether the module has a `validation_step` of its own: without, its loader is passed over."""
    owner = next(kind for kind in type(pl_module).__mro__ if "validation_step" in vars(kind))
    return owner.__name__ != "LightningModule"


def best_checkpoint(trainer: Trainer) -> list[Any]:
    """Path and score of the best checkpoint so far; empty where none is chosen by a metric."""
    for callback in trainer.checkpoint_callbacks:
        score = getattr(callback, "best_model_score", None)
        if getattr(callback, "monitor", None) is not None and score is not None:
            return [str(callback.best_model_path), float(score)]
    return []


def loaders_of(trainer: Trainer, stage: str) -> list[Any]:
    """The loaders of the validation or of the test, however the user nested them."""
    given = trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
    return [] if given is None else list(tree_leaves(given))


def training_loader(trainer: Trainer) -> Any:
    """The first loader of the training; None where the run has none.

    Before the training starts, the Trainer has not asked the user's `train_dataloader` yet, and it
    is asked here once more: put what it may change back.
    """
    given, source = trainer.train_dataloader, trainer.fit_loop._data_source
    if given is None and source.instance is not None and source.is_defined():
        given = source.dataloader()
    leaves = tree_leaves(getattr(given, "iterables", given))
    return next((one for one in leaves if one is not None), None)


def training_owner(trainer: Trainer) -> Any:
    """What `training_loader` may ask: a module, a data module, or the loaders themselves."""
    return trainer.fit_loop._data_source.instance


@contextmanager
def as_validation(trainer: Trainer) -> Iterator[None]:
    """Let batch hooks that ask see a validation, also when the training is about to start."""
    stage = trainer.state.stage
    if trainer.training:
        trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


def transferred(trainer: Trainer, pl_module: Module, batch: Any) -> Any:
    """A batch as the model's validation step gets it: precision, batch hooks, device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def subject_of(
    trainer: Trainer,
    pl_module: Module,
    target: Callable[[Tensor, Tensor], Tensor],
    output: Output,
    forward: Forward,
) -> Subject:
    """The module as it is called in this Trainer's validation."""
    call, sharded = called_by(pl_module, forward), _is_a(trainer.strategy, *SHARDED)
    if sharded:
        wrapper = trainer.strategy.model
        call = _through(wrapper, call) if forward is not None else lambda _, inputs: wrapper(inputs)
    return Subject(
        pl_module,
        target,
        output=picked_by(output),
        context=trainer.precision_plugin.forward_context,
        call=call,
        # Sharded modules prepare their backward pass in the forward pass, or not at all.
        whole_graph=sharded,
    )


def _through(
    wrapper: nn.Module, call: Callable[[nn.Module, Tensor], Any]
) -> Callable[[nn.Module, Tensor], Any]:
    """Call the module from within its wrapper, which brings the sharded parameters together."""

    def call_wrapper(module: nn.Module, inputs: Tensor) -> Any:
        own = module.__dict__.pop("forward", None)

        def give_back() -> None:
            module.__dict__.pop("forward", None)
            if own is not None:
                module.__dict__["forward"] = own

        def forward(given: Tensor) -> Any:
            give_back()  # what is called may call the real one
            return call(module, given)

        module.__dict__["forward"] = forward
        try:
            return wrapper(inputs)
        finally:
            give_back()

    return call_wrapper
