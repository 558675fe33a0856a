"""How a cell of the matrix is trained: its Trainer, its net and its strategy."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from harmless_cells import INDUCTOR, SPAWN, Cell
from lightning.pytorch.plugins.layer_sync import LayerSync
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.nn.functional import all_reduce
from twin_nets import Checkpointed, FrozenBackbone, Net, OwnTrain, Tied, sharded
from twin_runs import Setup

Options = dict[str, Any]

# Validations stand in the middle of accumulated batches, where a stray gradient would be added.
ACCUMULATE: Options = {"accumulate_grad_batches": 3, "val_check_interval": 4}

LOOPS: dict[str, Options] = {
    "accumulate 3": ACCUMULATE,
    "validate every 0.25": {"val_check_interval": 0.25},
    "validate every 4": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "no validation": {"limit_val_batches": 0},
    "half the validation": {"limit_val_batches": 0.5, "limit_test_batches": 0.5},
    "overfit": {"overfit_batches": 2},
    "fast_dev_run": {"fast_dev_run": 2},
    "no sanity check": {"num_sanity_val_steps": 0, **ACCUMULATE},
    "clipping": {"gradient_clip_val": 0.1, **ACCUMULATE},
    "manual": {"val_check_interval": 3},
    "EMA": {"val_check_interval": 4},
}
"""Options of the Trainer, where a loop is made by them."""

NETS: dict[str, type[Net]] = {
    "frozen backbone": FrozenBackbone,
    "checkpointing": Checkpointed,
    "tied weights": Tied,
    "own train()": OwnTrain,
}

COMPILED: dict[str, Any] = {
    "torch.compile": {"compiled": "module"},
    "module.compile": {"compiled": "method"},
    INDUCTOR: {"compiled": "module", "backend": "inductor"},
}


def setup_of(cell: Cell, device: str = "cpu") -> Setup:
    """What `twin_runs.run` runs, on ``cpu`` or on ``cuda``."""
    options = {"precision": cell.precision, **LOOPS.get(cell.loop, {})}
    if cell.loop == "clipping" and cell.ranks == "FSDP1":
        options["gradient_clip_algorithm"] = "value"  # the norm is refused: no rank knows it
    if cell.ranks == "DDP static":
        options.pop("accumulate_grad_batches", None)  # refused: see `harmless_cells.refused`
    if device == "cuda" or cell.precision == "16-mixed":
        # Without, two trainings differ there though nobody looks.
        options |= {"accelerator": "cuda", "deterministic": True}
    net = NETS.get(cell.loop, Net)
    averages: dict[str, Any] = {"EMA": "after", "SWA": "swa"}
    verb: Any = cell.verb
    return Setup(
        epochs=3 if cell.loop == "SWA" else 2,
        augmented=True,
        loaders=2 if cell.loop == "two loaders" else 1,
        manual=cell.loop == "manual",
        average=averages.get(cell.loop, ""),
        verb=verb,
        trainer=tuple(options.items()),
        net=sharded(net) if cell.ranks == "FSDP2" else net,
        processes=cell.processes,
        spawned=cell.ranks == SPAWN,
        made=partial(made_for, cell),
        **COMPILED.get(cell.compile, {}),
    )


class CpuFSDPStrategy(FSDPStrategy):
    """FSDP, told that its device is the CPU: it asks for a number, which a CPU has not."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(
            model,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=torch.device("cpu"),
            **self.kwargs,
        )


class Shared(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes; torch's own has no CPU kernel."""

    def forward(self, input: Tensor) -> Tensor:
        synchronised = self.training and dist.is_initialized()
        output: Tensor = self._synchronised(input) if synchronised else super().forward(input)
        return output

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _synchronised(self, input: Tensor) -> Tensor:
        moments = torch.stack(
            [input.float().mean((0, 2, 3)), input.float().square().mean((0, 2, 3))]
        )
        mean, square = all_reduce(moments) / dist.get_world_size()  # type: ignore[no-untyped-call]
        variance = square - mean.square()
        with torch.no_grad():
            for name, now in (("running_mean", mean), ("running_var", variance)):
                buffer = self.get_buffer(name)
                buffer.lerp_(now.to(buffer.dtype), 0.1)
        shape = (1, -1, 1, 1)
        normal = (input - mean.view(shape)) / (variance.view(shape) + self.eps).sqrt()
        scaled = normal * self.weight.view(shape) + self.bias.view(shape)
        output: Tensor = scaled.to(input.dtype)
        return output


class SharedBatchNorm(LayerSync):
    """What ``Trainer(sync_batchnorm=True)`` is on GPUs."""

    def apply(self, model: nn.Module) -> nn.Module:
        for part in model.modules():
            for name, child in part.named_children():
                if type(child) is nn.BatchNorm2d and child.training:
                    setattr(part, name, _shared(child))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        return model


def _shared(norm: nn.BatchNorm2d) -> Shared:
    shared = Shared(norm.num_features)
    shared.load_state_dict(norm.state_dict())
    return shared


def strategy_of(cell: Cell) -> Any:
    """A new one: a strategy serves one Trainer."""
    if cell.ranks == "FSDP1":
        # Three units, two of them in the third. FSDP keeps the BatchNorm of wrapped units in
        # float32, which torch's kernel refuses for inputs of bfloat16.
        units: set[type[nn.Module]] | None = (
            None if cell.precision == "bf16-true" else {nn.Sequential}
        )
        return CpuFSDPStrategy(process_group_backend="gloo", auto_wrap_policy=units)
    if cell.ranks == "FSDP2":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    if cell.ranks in DDP:
        return DDPStrategy(process_group_backend="gloo", **DDP[cell.ranks])
    return "ddp_spawn" if cell.ranks == SPAWN else "auto"


DDP: dict[str, Any] = {
    "DDP": {},
    "DDP unused": {"find_unused_parameters": True},
    "DDP static": {"static_graph": True},
}


def made_for(cell: Cell) -> Options:
    """The options of the Trainer that serve one Trainer only."""
    plugins = [SharedBatchNorm()] if cell.loop == "SyncBatchNorm" else []
    return {"strategy": strategy_of(cell), "plugins": plugins}
