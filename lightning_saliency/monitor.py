"""The callback: when to look, and in which order. No mathematics."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_saliency import trainers
from lightning_saliency.attribution import (
    Explanation,
    Method,
    MethodName,
    explain,
    resolve_methods,
)
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.gallery import SHOWN, View
from lightning_saliency.logs import Format, PictureWriter, write_scalars, write_text
from lightning_saliency.measures import Drift, Grounding, MeasureName, Shape, resolve_measures
from lightning_saliency.memory import STRIPS, Column, Memory
from lightning_saliency.observation import observing, out_of_memory
from lightning_saliency.probes import Fields, Probes
from lightning_saliency.progress import Progress
from lightning_saliency.readings import readings, to_host
from lightning_saliency.schedule import Every
from lightning_saliency.session import (
    Session,
    Settings,
    needs_passing_batches,
    open_session,
)
from lightning_saliency.snapshot import Snapshot
from lightning_saliency.targets import Target, TargetName, confidence, resolve_target

log = logging.getLogger("lightning.pytorch.saliency")

VERSION = 1
"""Of the state in checkpoints."""

Key = int | str | Callable[[Any], Any] | None


class SaliencyWarning(UserWarning):
    """Something about an observation that a user should know; the training goes on."""


class SaliencyMonitor(Callback):
    """Watch where a model looks while it trains.

    After each validation it computes saliency maps of a fixed set of probe examples on the training
    device, measures how far they are from earlier ones, and writes grids, filmstrips and curves to
    the Trainer's loggers. The training is bit by bit the one without it.

    ``Trainer(callbacks=[SaliencyMonitor()])`` works for every classifier whose validation batches
    are ``(x, y)`` and whose ``forward(x)`` returns logits. Anything else is one argument away.

    Args:
        methods: attribution methods: None for the gradient alone (`Saliency`, named
            ``gradient``), a list of our names, or a mapping of your names to our names, method
            objects, or callables ``(model, inputs, targets) -> maps``.
        probes: how many examples of the first validation set to watch, chosen with balanced
            classes; or their indices; or a `Probes` object; or a DataLoader of yours.
        target: the scalar that is differentiated: ``margin`` (log-odds of the class), ``logit``,
            ``log_prob``, ``prob``, ``output`` (regression), ``region`` (segmentation), a `Target`,
            or a callable ``(outputs, classes) -> (N,)``.
        target_class: the class that is explained, fixed per probe: its ``label``, its
            ``prediction`` at the first observation, or one class for all.
        measures: further measures beside directional drift: None for blurred drift, entropy and,
            where there are masks, grounding; a list of our names; or a mapping of your names to
            our names or to `Drift`, `Shape` and `Grounding` objects around functions of yours.
        every: observe every n-th validation, or an `Every` (epochs, a start).
        reference: what grids show the change since: the ``previous`` observation, the ``first``
            one, the ``best`` one by the monitored ModelCheckpoint, or the first one at or after a
            step. For the last two, drift from it is measured as well.
        input: where the input is in a batch: an index, a key (dotted when nested) or a callable.
        label: where the label is.
        mask: where a mask is, `(N, *spatial)`: measures of grounding use it.
        output: where the scores are in what the model returns: an index, a key or attribute, or a
            callable.
        forward: what is called instead of ``forward(x)``: the name of a submodule or method, or a
            callable ``(pl_module, x) -> outputs``.
        mean: of the dataset's normalisation, to show probes as a person knows them; found in the
            dataset's transforms where it is a torchvision Normalize.
        std: of the normalisation.
        seed: of the choice of the probes.
        chunk: probes per pass; halved when memory runs out.
        picture_format: ``jpeg`` (small) or ``png`` (exact).
        name: first part of all tags. Two monitors in one Trainer need two names.
        on_error: what a failure while training does: ``warn`` once and go on, or ``raise``.

    Raises:
        ConfigurationError: before the first training step, for anything that can't work; the
            message names the argument, the value and the remedy.

    Tags, with the default ``name``:

    {table}
    """

    def __init__(
        self,
        methods: MethodName
        | list[MethodName]
        | dict[str, MethodName | Method | Callable[..., Any]]
        | Method
        | None = None,
        probes: int | list[int] | Probes | DataLoader[Any] = 64,
        target: TargetName | Target | Callable[..., Any] = "margin",
        target_class: int | Literal["label", "prediction"] = "label",
        measures: list[MeasureName]
        | dict[str, MeasureName | Drift | Shape | Grounding]
        | None = None,
        every: int | Every = 1,
        reference: int | Literal["previous", "first", "best"] = "previous",
        input: Key = None,
        label: Key = None,
        mask: Key = None,
        output: Key = None,
        forward: str | Callable[..., Any] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        seed: int = 0,
        chunk: int = CHUNK,
        picture_format: Format = "jpeg",
        name: str = "saliency",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self.name = _checked_name(name)
        self.every = Every(every) if isinstance(every, int) else every
        self.reference = _checked_choice("reference", reference, ("previous", "first", "best"))
        self.on_error = _checked_choice("on_error", on_error, ("warn", "raise"))
        self.settings = Settings(
            methods=resolve_methods(methods),
            measures=resolve_measures(measures),
            target=resolve_target(target),
            target_class=_checked_choice("target_class", target_class, ("label", "prediction")),
            probes=_checked_probes(probes),
            fields=Fields(input=input, label=label, mask=mask),
            output=output,
            forward=forward,
            **_checked_normalisation(mean, std),
            seed=seed,
        )
        if chunk < 1:
            raise ConfigurationError(f"chunk={chunk}: give 1 or more probes per pass.")
        self._chunk = chunk
        self._writer = PictureWriter(picture_format, self._picture_failed)
        self._session: Session | None = None
        self._memory: Memory | None = None
        self._restored: Mapping[str, Any] | None = None
        self._passed: list[Any] = []
        self._off: str | None = None
        self._validations = 0
        self._failures = 0
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._best: str | None = None
        self._checkpoint_step: int | None = None
        self._told: set[str] = set()

    @property
    def state_key(self) -> str:
        """The key of this monitor's state in checkpoints."""
        return self._generate_state_key(name=self.name)

    # When ------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the place in the list of callbacks from which averaged weights are seen."""
        trainers.stand_before_averaging(trainer, self)
        self._session = None
        self._off = self._reason_to_keep_off(trainer)
        if self._off is not None:
            self._warn(trainer, self._off)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock by which the overhead is told."""
        self._started, self._seconds = time.perf_counter(), 0.0

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep what passes, where the data can only be iterated."""
        self._keep(trainer, batch, dataloader_idx, "validate")

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep what passes, where the data can only be iterated."""
        self._keep(trainer, batch, dataloader_idx, "test")

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe here: ModelCheckpoint and EarlyStopping act later and see the numbers."""
        if self._off is not None:
            return
        if trainer.sanity_checking:
            self._start(trainer, pl_module)
        elif trainer.state.fn.value != "fit":
            self._look(trainer, pl_module, "validation")
        else:
            epoch, validation = trainer.current_epoch, self._validations
            self._validations += epoch >= self.every.start
            if self.every.due(validation, epoch, trainers.ends_epoch(trainer)):
                self._look(trainer, pl_module, trainers.label_of(trainer))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the tested weights."""
        if self._off is None:
            self._look(trainer, pl_module, "test")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Observe the untrained network, or check a resumed run, before the first step."""
        if self._off is not None or self._session is not None:
            return
        if needs_passing_batches(self.settings, trainer, "validate"):
            self._warn(
                trainer,
                "the validation data can only be iterated and no sanity check ran, so its first "
                "examples become the probes at the first validation: the untrained network is not "
                "observed.",
            )
            return
        self._start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe after an epoch where nothing is ever validated."""
        epoch = trainer.current_epoch
        if (
            self._off is None
            and not trainer.enable_validation
            and self.every.due(epoch, epoch, True)
        ):
            self._look(trainer, pl_module, f"epoch {epoch}")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """See the last picture written."""
        self._writer.drain()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give back the thread that writes."""
        self._writer.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give back the thread that writes: there is no teardown after an exception."""
        self._writer.close()

    # In which order --------------------------------------------------------------------------

    def _observe(
        self, trainer: Any, pl_module: Any, session: Session, memory: Memory, label: str, step: int
    ) -> dict[str, float]:
        """Look once: probes → maps → numbers → pictures → logs. The scalars are returned."""
        device, others = pl_module.device, memory.snapshots
        with observing(pl_module), Progress(trainer, label) as progress:
            explanation = explain(
                session.subject,
                session.probes.inputs.to(device),
                session.classes,
                session.methods,
                chunk=self._chunk,
                progress=progress,
            )
            now = Snapshot.of(explanation, step=step, label=label)
            masks = session.probes.masks
            masks = None if masks is None else masks.to(device)
            numbers = readings(explanation, now, others, self.settings.measures, masks)
            drawn = _drawn(explanation, now, others.get("previous"), self._compared(memory))
            host = to_host(numbers | drawn)
        self._chunk = explanation.chunk
        scalars = {name: float(host[name]) for name in numbers}
        column = _column(memory.count, label, host, scalars, list(now.series))
        self._memory = self._with_reference(trainer, memory, now).after(now, column)
        self._draw(trainer, session, memory, now, host)
        return scalars

    def _draw(
        self, trainer: Any, session: Session, memory: Memory, now: Snapshot, host: Mapping[str, Any]
    ) -> None:
        if not trainer.is_global_zero or self._memory is None:
            return
        reference = self._compared(memory)
        flipped = host["predictions"] != host.get("predictions_before", host["predictions"])
        view = View(
            step=now.step,
            label=now.label,
            maps={name: host[f"map {name}"] for name in now.series},
            reference={
                name: host[f"reference {name}"]
                for name in now.series
                if f"reference {name}" in host
            },
            reference_label=reference.label if reference is not None else "",
            predictions=host["predictions"].astype("int64"),
            confidence=host["confidence"],
            flipped=flipped,
            columns=self._memory.columns,
        )
        pictures = session.gallery.pictures(view)
        tagged = {f"{self.name}/{tag}": picture for tag, picture in pictures.items()}
        self._writer.write(trainer.loggers, tagged, now.step)

    # Around an observation -------------------------------------------------------------------

    def _start(self, trainer: Any, pl_module: Any) -> None:
        """Prepare, and observe the untrained network, unless a resumed run has done so."""
        begun = time.perf_counter()
        self._session = self._open(trainer, pl_module, "fit")
        if self._memory is None:
            self._first_look(trainer, pl_module, self._session, "start", begun)

    def _look(self, trainer: Any, pl_module: Any, label: str) -> None:
        """Observe now; a failure after the first observation never stops the run."""
        begun = time.perf_counter()
        if self._session is None:
            stage = "test" if label == "test" else "validate"
            self._session = self._open(trainer, pl_module, stage)
        if self._memory is None:
            self._first_look(trainer, pl_module, self._session, label, begun)
            return
        self._warn_of_unused_average(trainer)
        scalars: dict[str, float] = {}
        try:
            scalars = self._observe(
                trainer, pl_module, self._session, self._memory, label, self._step(trainer)
            )
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._failures += 1
            self._warn(trainer, f"an observation failed and was left out: {_told(error)}")
        pl_module.log_dict(self._tagged(scalars | self._costs(begun)), rank_zero_only=False)

    def _first_look(
        self, trainer: Any, pl_module: Any, session: Session, label: str, begun: float
    ) -> None:
        """The first observation proves that all later ones can work, so its failure is told now."""
        memory, step = Memory(session.classes), self._step(trainer)
        try:
            scalars = self._observe(trainer, pl_module, session, memory, label, step)
        except ConfigurationError:
            raise
        except Exception as error:
            if out_of_memory(error) and self.on_error == "warn":
                self._failures += 1
                self._warn(trainer, f"the first observation ran out of memory: {_told(error)}")
                return
            raise ConfigurationError(
                f"The first observation failed with {_told(error)}\nIt looked at probes "
                f"{tuple(session.probes.inputs.shape)}, {session.probes.inputs.dtype}, with the "
                f"methods {list(session.methods)}. Check methods=…, input=… and forward=…."
            ) from error
        scalars = self._tagged(scalars | self._costs(begun))
        if trainer.sanity_checking or trainer.training:
            # The Trainer throws away what is logged in a sanity check, and takes nothing before it.
            if trainer.is_global_zero:
                write_scalars(trainer.loggers, scalars, step)
        else:
            pl_module.log_dict(scalars, rank_zero_only=False)
        self._introduce(trainer, session, step)

    def _open(self, trainer: Any, pl_module: Any, stage: str) -> Session:
        restored, self._restored = self._restored, None
        session = open_session(
            self.settings,
            trainer,
            pl_module,
            stage=stage,
            passed=self._passed,
            restored=None if restored is None else restored["probes"],
        )
        self._passed = []
        if restored is not None:
            self._remember(trainer, restored)
        if self._memory is not None:
            session = replace(session, classes=self._memory.classes.to(pl_module.device))
            self._memory = self._memory.to(pl_module.device)
        return session

    def _remember(self, trainer: Any, restored: Mapping[str, Any]) -> None:
        """Take over the memory of a checkpoint, but for what was configured otherwise then."""
        memory = Memory.from_state(restored["memory"])
        now, then = self.settings.described(), restored["settings"]
        changed = [what for what in now.keys() | then.keys() if now.get(what) != then.get(what)]
        if "target" in changed or "target_class" in changed:
            self._warn(trainer, f"{' and '.join(sorted(changed))} changed: drift starts anew.")
            return
        for what in changed:
            self._warn(trainer, f"{what} is not what it was in the checkpoint: it starts anew.")
        gone = {what.removeprefix("methods: ") for what in changed}
        self._memory = memory.without(gone)

    def _with_reference(self, trainer: Any, memory: Memory, now: Snapshot) -> Memory:
        """Choose what later grids are compared with, if not with the first observation."""
        if isinstance(self.reference, int):
            reached = "reference" not in memory.snapshots and now.step >= self.reference
            return memory.with_reference(now) if reached else memory
        if self.reference == "best":
            # Checkpoints are written after us: a new best one is of the previous observation.
            best = trainers.best_checkpoint(trainer)
            if best not in (None, "", self._best) and "previous" in memory.snapshots:
                self._best = best
                return memory.with_reference(memory.snapshots["previous"])
        return memory

    def _compared(self, memory: Memory) -> Snapshot | None:
        """What the grid of the next observation is compared with."""
        if self.reference == "previous":
            return memory.snapshots.get("previous")
        return memory.snapshots.get("reference", memory.snapshots.get("first"))

    def _keep(self, trainer: Any, batch: Any, loader: int, stage: str) -> None:
        wanted = self.settings.probes
        if self._off is not None or self._session is not None or loader != 0:
            return
        more = isinstance(wanted, int) and len(self._passed) < wanted
        if more and needs_passing_batches(self.settings, trainer, stage):
            self._passed.append(batch)

    def _reason_to_keep_off(self, trainer: Any) -> str | None:
        untried = trainers.untried_strategy(trainer)
        if untried is not None:
            return f"it keeps off the strategy {untried}, under which it was not tried."
        if trainer.barebones:
            return "it keeps off a barebones Trainer, which logs nothing."
        without_validation = trainer.state.fn.value == "fit" and trainer.limit_val_batches == 0
        if without_validation and not isinstance(self.settings.probes, Probes):
            return (
                "limit_val_batches=0, so there is neither data to take probes from nor a "
                "validation to observe at. Give probes=Probes.from_tensors(…) to go on."
            )
        return None

    def _step(self, trainer: Any) -> int:
        if trainer.state.fn.value != "fit" and self._checkpoint_step is not None:
            return self._checkpoint_step
        return 0 if trainer.sanity_checking else trainers.step_of(trainer)

    def _costs(self, begun: float) -> dict[str, float]:
        seconds = time.perf_counter() - begun
        self._seconds += seconds
        whole = time.perf_counter() - self._started
        return {
            "seconds": seconds,
            "overhead": min(1.0, self._seconds / max(whole, 1e-9)),
            "failures": float(self._failures),
        }

    def _tagged(self, scalars: Mapping[str, float]) -> dict[str, float]:
        return {f"{self.name}/{name}": value for name, value in scalars.items()}

    # Words -----------------------------------------------------------------------------------

    def _introduce(self, trainer: Any, session: Session, step: int) -> None:
        if not trainer.is_global_zero:
            return
        folder = next((logger.log_dir for logger in trainer.loggers if logger.save_dir), None)
        command = f"tensorboard --logdir {folder} --samples_per_plugin images=1000"
        every = f"\n\nTensorBoard keeps ten random steps of a picture. All of them: `{command}`"
        about = session.about(self.settings) + (every if folder else "")
        write_text(trainer.loggers, f"{self.name}/about", about, step)
        if folder:
            self._say(trainer, f"SaliencyMonitor watches {len(session.probes)} probes. {command}")

    def _say(self, trainer: Any, text: str) -> None:
        bar = trainer.progress_bar_callback
        if bar is not None and bar.is_enabled:
            bar.print(text)
        else:
            log.info(text)

    def _warn(self, trainer: Any, text: str) -> None:
        """Warn once of each thing, on one rank."""
        if text not in self._told and trainer.is_global_zero:
            warnings.warn(f"SaliencyMonitor: {text}", SaliencyWarning, stacklevel=2)
        self._told.add(text)

    def _warn_of_unused_average(self, trainer: Any) -> None:
        unused = trainers.never_averaged(trainer)
        if unused is not None:
            self._warn(
                trainer,
                f"{unused} has not averaged anything yet, so the validation sees weights from "
                "before the training: no drift is to be seen until it has.",
            )

    def _picture_failed(self, error: Exception) -> None:
        """Called on the writer's thread."""
        self._failures += 1
        text = f"a picture could not be written: {_told(error)}"
        if text not in self._told:
            self._told.add(text)
            log.warning("SaliencyMonitor: %s", text)

    # State -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and builtins, on the CPU."""
        if self._memory is None or self._session is None:
            return {} if self._restored is None else dict(self._restored)
        return {
            "version": VERSION,
            "settings": self.settings.described(),
            "probes": self._session.probes.fingerprint.to_state(),
            "memory": self._memory.state(),
            "validations": self._validations,
            "failures": self._failures,
            "best": self._best,
            "chunk": self._chunk,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the data is there to compare it with."""
        if not state_dict:
            return
        if state_dict["version"] != VERSION:
            raise ConfigurationError(
                f"The checkpoint holds a SaliencyMonitor state of version {state_dict['version']}, "
                f"this is version {VERSION}. Resume with the release that wrote it, or without "
                "the monitor."
            )
        self._restored, self._memory = state_dict, None
        self._validations, self._failures = state_dict["validations"], state_dict["failures"]
        self._best, self._chunk = state_dict["best"], state_dict["chunk"]

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note the step of the weights, which `trainer.validate` and `trainer.test` forget."""
        self._checkpoint_step = trainers.step_of_checkpoint(checkpoint)


def _drawn(
    explanation: Explanation, now: Snapshot, before: Snapshot | None, reference: Snapshot | None
) -> dict[str, Tensor]:
    """What pictures need, for the one transfer to the host."""
    needed = {
        "predictions": now.predictions[:SHOWN],
        "confidence": confidence(explanation.outputs, now.predictions)[:SHOWN],
    }
    if before is not None:
        needed["predictions_before"] = before.predictions[:SHOWN]
    for name, series in now.series.items():
        needed[f"map {name}"] = series.map[:SHOWN]
        if reference is not None and name in reference.series:
            needed[f"reference {name}"] = reference.series[name].map[:SHOWN]
    return needed


def _column(
    index: int,
    label: str,
    host: Mapping[str, Any],
    scalars: Mapping[str, float],
    methods: list[str],
) -> Column:
    """One observation in the filmstrip."""
    maps = {name: torch.from_numpy(host[f"map {name}"][:STRIPS]).half() for name in methods}
    drift = {name: scalars.get(f"{name}/drift_previous", float("nan")) for name in methods}
    given = torch.from_numpy(host["predictions"][:STRIPS]).long()
    return Column(index, label, maps, given, drift)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _checked_name(name: str) -> str:
    if not name or name != name.strip("/ "):
        raise ConfigurationError(f"name={name!r} can't begin a tag. Use a word such as 'saliency'.")
    return name


def _checked_choice(argument: str, value: Any, known: tuple[str, ...]) -> Any:
    if isinstance(value, str) and value not in known:
        raise ConfigurationError(f"{argument}={value!r}. {did_you_mean(value, known)}")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigurationError(
            f"{argument}={value!r} is a {type(value).__name__}. Give one of "
            f"{', '.join(known)}, or a number where one makes sense."
        )
    return value


def _checked_probes(probes: Any) -> Any:
    if isinstance(probes, bool) or (isinstance(probes, int) and probes < 1):
        raise ConfigurationError(f"probes={probes!r}: give how many to watch, 1 or more.")
    if isinstance(probes, str) or (
        not hasattr(type(probes), "__len__") and not isinstance(probes, int)
    ):
        raise ConfigurationError(
            f"probes={probes!r} is a {type(probes).__name__}. Give a number, a list of indices, a "
            "Probes object or a DataLoader."
        )
    return probes


def _checked_normalisation(mean: Any, std: Any) -> dict[str, tuple[float, ...] | None]:
    if (mean is None) != (std is None):
        raise ConfigurationError(
            f"mean={mean} and std={std}: a normalisation is undone with both, one number per "
            "channel each."
        )
    if mean is None:
        return {"mean": None, "std": None}
    if len(mean) != len(std) or not all(value > 0 for value in std):
        raise ConfigurationError(
            f"mean={mean} and std={std}: give one number per channel each, std above 0."
        )
    return {"mean": tuple(mean), "std": tuple(std)}
