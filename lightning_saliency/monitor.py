"""The callback: when to look, and in which order. No mathematics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from lightning_saliency import trainers
from lightning_saliency.alerts import Alerts
from lightning_saliency.attribution import Method, MethodName
from lightning_saliency.audits import Audits
from lightning_saliency.choosing import Passing, needs_passing_batches
from lightning_saliency.class_models import ClassModel
from lightning_saliency.errors import ConfigurationError, in_words
from lightning_saliency.finding import Finding, found
from lightning_saliency.followup import followed_up
from lightning_saliency.history import History, telling_damage
from lightning_saliency.inquiry import Inquiry
from lightning_saliency.logs import begin_again, boards
from lightning_saliency.measures import Drift, Grounding, MeasureName, Shape, Stimulus
from lightning_saliency.memory import Memory
from lightning_saliency.observation import out_of_memory
from lightning_saliency.opening import open_session, reason_to_keep_off
from lightning_saliency.probes import Probes
from lightning_saliency.probes.fields import Reading
from lightning_saliency.progress import Overhead, Progress
from lightning_saliency.recording import Fit
from lightning_saliency.schedule import Every
from lightning_saliency.session import Session
from lightning_saliency.settings import Settings
from lightning_saliency.sight import sight
from lightning_saliency.sighting import Sighting
from lightning_saliency.stream import Stream
from lightning_saliency.targets import Target, TargetName
from lightning_saliency.telling import Teller
from lightning_saliency.trainers import Moment
from lightning_saliency.writer import Format

Key = int | Callable[[Any], Any] | str | None


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
        measures: further measures beside directional drift: None for entropy and, where there are
            masks, grounding; a list of our names; or a mapping of your names to
            our names or to `Drift`, `Shape` and `Grounding` objects around functions of yours.
        every: observe every n-th validation, or an `Every` (epochs, a start).
        budget: the share of the fit's time that observations may take, such as 0.02: those that
            would exceed it are left out. The first and the last are always taken.
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
        chunk: most rows of a pass; 32 when not given, or the validation's batch size where that
            is smaller. On an accelerator few probes share a pass between several noisy copies or
            steps. Halved when memory runs out.
        picture_format: ``jpeg`` (small) or ``png`` (exact).
        name: first part of all tags. Two monitors in one Trainer need two names.
        on_error: what a failure while training does: ``warn`` once and go on, or ``raise``.
        class_models: indices of up to 32 classes: at each observation, what each looks like to the
            model, the picture that maximises its score; or a `ClassModel` with other settings than
            its 32 steps. None for none.
        audits: every how many observations the maps themselves are checked: their floors, their
            faithfulness and, once, their sanity; or an `Audits`. Each costs about ten observations.
        alerts: how many examples of the training, as they pass, are watched beside the probes, so
            that a part of the image that gains evidence is told; 0 for the probes alone; or an
            `Alerts` with another threshold. None for no alerts.
        record: pixels of a map's side, 4 to 112, in the record that TensorBoard's Saliency tab and
            `lightning_saliency.record.read` show the whole history from: smaller maps are kept as
            they are. None for no record.
        movie: at the end of a fit, draw the record as a film that plays in TensorBoard's pictures:
            ``webp`` (small) or ``gif``. None for none.

    Raises:
        ConfigurationError: before the first training step, for anything that can't work; the
            message names the argument, the value and the remedy.

    Tags, with the default ``name``:

    - ``saliency/{method}`` (image): up to 32 probes: image, map over image, change since the
      previous observation or the reference; label, prediction and a mark where the prediction
      flipped
    - ``saliency/{method}/filmstrip`` (image): up to 8 probes × 16 observations, the first and the
      newest always: the whole history
    - ``saliency/{method}/movie`` (image): with `movie`, at the end of a fit: the maps of up to 32
      probes at up to 50 observations, as an animated picture
    - ``saliency/class_models`` (image): one row per class, one column per observation as in the
      filmstrip: the picture that maximises the class's score, and the probability it reaches
    - ``saliency/floors`` (image): with `audits`: one row per method: how far its maps move when
      nothing that matters changed, and when all did, beside the drift of now; as text with what was
      changed
    - ``saliency/alert`` (image): of a region alert: the cell, what passed or the probes, covered
      and swapped, and what that did to the score; as text in words
    - ``saliency/{method}/drift_previous`` (scalar): 1 − cosine of the signed maps to the previous
      observation, 0 (same) to 2, unrelated 1; median over probes, with the 10 % and 90 % quantiles
      under `…_p10` and `…_p90`
    - ``saliency/{method}/drift_first`` (scalar): the same to the first observation
    - ``saliency/{method}/drift_reference`` (scalar): the same to the reference, when one is
      configured
    - ``saliency/{method}/drift_previous_{part}`` (scalar): means: of the probes whose prediction
      `stayed` or `flipped`; `by_class`, where classes weigh the same; of the `worst_class`;
      `of_chance`, ÷ the same between mismatched probes
    - ``saliency/{method}/tortuosity`` (scalar): the way that the maps went ÷ the distance from the
      first, from 1 (straight) on; median
    - ``saliency/{method}/crossval_{other}`` (scalar): of methods that draw samples: drift without
      their noise, about 0 to 2, mean over probes; with `…_z`, and `…_detectable`, the smallest that
      is told from none
    - ``saliency/{method}/reliability`` (scalar): of the same: 1 noiseless, below 0.5 mostly noise;
      median. `unreliable`: the share below
    - ``saliency/{method}/{measure}`` (scalar): each further measure: mean over probes; of drift:
      median, as `{measure}_previous`, `…_first`, `…_reference`
    - ``saliency/{method}/{number}`` (scalar): what a method knows of its own maps, median over
      probes: `completeness_gap` (relative; paths, KernelSHAP; DeepLIFT and FullGrad with
      `target='logit'`), `fit` (R² of LIME and KernelSHAP), `channels_share` (of the activation that
      Score-CAM and Ablation-CAM weighed)
    - ``saliency/{method}/undefined`` (scalar): share of this method's maps that are constant or not
      finite, and left out of its numbers
    - ``saliency/{method}/floor_{rung}`` (scalar): with `audits`: the drift by `repeat`,
      `batch_size`, `precision`, `jitter_1`, `jitter_5`, `pixel`, `step`, `seed` and `redrawn`;
      median, `…_p10`, `…_p90`
    - ``saliency/{method}/{audit}`` (scalar): with `audits`: `insertion` (above 0) and `deletion`
      (below 0) against a random order; `sanity`, once: rank correlation with the maps of random
      weights, good near 0
    - ``saliency/agreement/{method}/{method}`` (scalar): with `audits`: rank correlation of two
      methods' maps of the same probes; median
    - ``saliency/context_swap_gap`` (scalar): with `audits` and masks: what the score loses on
      backgrounds of other classes
    - ``saliency/alerts`` (scalar): region alerts so far
    - ``saliency/region_z`` (scalar): the largest z of a cell that gained evidence; an alert where
      it passes the threshold
    - ``saliency/event_z`` (scalar): how unusual the drift of all maps is in this run; high at
      changes of the learning rate
    - ``saliency/cells/{panel}`` (tensor): shares of the cells, for `calibrate`
    - ``saliency/record/probes`` (blobs): with `record`, for the Saliency tab and `record.read`: the
      probes' names, classes and images, once
    - ``saliency/record/maps/{method}`` (blobs): with `record`: all maps of each observation, up to
      56 × 56, in 8 bits with their peaks
    - ``saliency/record/observations`` (tensor): with `record`: of each observation the predictions,
      the drift of each probe, the numbers, learning rates, alerts and events, and the best
      checkpoint
    - ``saliency/classes`` (text): drift and flips of each class
    - ``saliency/magnitude`` (scalar): log10 of the median norm of the input gradient
    - ``saliency/churn`` (scalar): share of predictions that flipped since the previous, 0 to 1
    - ``saliency/undefined`` (scalar): share of all maps of all methods that are undefined, 0 to 1
    - ``saliency/mask_area`` (scalar): share of the image that the masks cover, 0 to 1
    - ``saliency/seconds`` (scalar): time that this observation held up the training
    - ``saliency/overhead`` (scalar): share of the fit's time so far, 0 to 1
    - ``saliency/failures`` (scalar): observations that failed so far, in whole or in part
    - ``saliency/about`` (text): probes, methods, layers, target, hash; how to see every step
    """

    def __init__(
        self,
        methods: MethodName
        | Method
        | list[MethodName]
        | dict[str, MethodName | Method | Callable[..., Any]]
        | None = None,
        # Bare: YAML is read by types, and not every release of jsonargparse reads a [Any].
        probes: int | list[int] | Probes | DataLoader = 64,  # type: ignore[type-arg]
        target: TargetName | Target | Callable[..., Any] = "margin",
        target_class: int | Literal["label", "prediction"] = "label",
        measures: list[MeasureName]
        | dict[str, MeasureName | Drift | Shape | Grounding | Stimulus]
        | None = None,
        every: int | Every = 1,
        budget: float | None = None,
        reference: int | Literal["previous", "first", "best"] = "previous",
        input: Key = None,
        label: Key = None,
        mask: Key = None,
        output: Key = None,
        forward: Callable[..., Any] | str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        seed: int = 0,
        chunk: int | None = None,
        picture_format: Format = "jpeg",
        name: str = "saliency",
        on_error: Literal["warn", "raise"] = "warn",
        class_models: list[int] | ClassModel | None = None,
        audits: int | Audits | None = None,
        alerts: int | Alerts | None = 64,
        record: int | None = 56,
        movie: Literal["webp", "gif"] | None = None,
    ) -> None:
        self.settings = Settings.of(
            **{key: value for key, value in locals().items() if key not in ("self", "__class__")}
        )
        self._teller = Teller(self.settings, picture_format)
        self._session: Session | None = None
        self._history = History()
        self._passing = Passing(self.settings.fields)
        self._off = False
        self._chunk = self.settings.chunk
        self._overhead = Overhead()
        self._checkpoint_step: int | None = None
        self._left_out: tuple[Moment, int] | None = None  # and the steps taken by then
        self._goes_on = False
        self._begun: tuple[int, float] | None = None  # at which step, and when
        self._resumed = False
        self._stream: Stream | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the place in the list of callbacks from which averaged weights are seen."""
        trainers.stand_before_averaging(trainer, self)
        self._session, self._checkpoint_step, self._left_out = None, None, None
        self._passing, self._begun = Passing(self.settings.fields), None
        self._teller.begin()
        if self.settings.reference == "best" and trainer.state.fn.value == "fit":
            trainers.check_best_is_chosen(trainer)
        reason = reason_to_keep_off(trainer, self.settings)
        self._off = reason is not None
        self._teller.warn(trainer, reason)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock by which the overhead is told, and a new memory for a new fit."""
        self._overhead = Overhead()
        if trainer.global_step == 0 and self._history.restored() is None:
            self._history = History()
        alerts, restored = self.settings.alerts, self._history.restored()
        if alerts is not None and alerts.stream:
            before = 0 if restored is None else restored.count
            self._stream = Stream(self.settings.fields, alerts.stream, self.settings.seed, before)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep what passes, where the data can only be iterated."""
        self._keep(trainer, batch, dataloader_idx)

    on_test_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe here: ModelCheckpoint and EarlyStopping act later and see the numbers."""
        if self._off:
            return
        if trainer.sanity_checking:
            self._start(trainer, pl_module)
        elif trainer.state.fn.value != "fit":
            self._look(trainer, pl_module, self._moment(trainer, "validation"))
        else:
            history, every, epoch = self._history, self.settings.every, trainer.current_epoch
            validation = history.validations
            history.validations += epoch >= every.start
            history.mark_best(trainers.best_checkpoint(trainer), trainers.step_of(trainer))
            if self.settings.reference == "best":
                self._teller.warn(trainer, history.follow_best(trainers.best_checkpoint(trainer)))
            history.seen += 1
            if every.due(validation, epoch, trainers.ends_epoch(trainer)):
                self._spend(trainer, pl_module, trainers.moment_of(trainer))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the tested weights."""
        if not self._off:
            self._look(trainer, pl_module, self._moment(trainer, "test"))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Observe the untrained network, or check a resumed run, before the first step."""
        if self._off or self._session is not None:
            return
        if needs_passing_batches(self.settings, trainer, "validate"):
            self._teller.warn(
                trainer,
                "the validation data can only be iterated and no sanity check ran, so its first "
                "examples become the probes at the first validation: the untrained network is not "
                "observed.",
            )
            return
        self._start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep some of what passes; tell boards where a resumed run goes on."""
        self._go_on(trainer)
        if self._stream is not None and trainer.is_global_zero and not self._off:
            try:
                self._stream.pass_by(batch)
            except Exception as error:
                self._stream = None
                text = "sees no examples of the training as they pass, so alerts are of the probes "
                self._teller.say(trainer, f"{text}alone: {in_words(error)}")

    def _go_on(self, trainer: Any) -> tuple[int, float]:
        """Where and when this fit began; told to boards, once, where it was resumed."""
        if self._begun is None:
            self._begun = trainers.step_of(trainer), time.time()
        if self._goes_on and trainer.is_global_zero:
            begin_again(trainer.loggers, self._begun[0])
        self._goes_on = False
        return self._begun

    def _passed_by(self) -> list[Reading]:
        """Examples of the training since the observation before."""
        return [] if self._stream is None else self._stream.emptied()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe after an epoch where nothing is ever validated."""
        epoch, every = trainer.current_epoch, self.settings.every
        due = every.due(epoch - every.start, epoch, True)
        if due and not self._off and not trainer.enable_validation:
            self._spend(trainer, pl_module, self._moment(trainer, f"epoch {epoch}"))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the last weights, if that was left out."""
        if self._left_out is not None:
            moment, steps = self._left_out
            if trainer.global_step != steps:
                moment = Moment(trainers.step_of(trainer), "end")
            with trainers.averaged(trainer, pl_module):
                self._look(trainer, pl_module, moment)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """See the last numbers and pictures written."""
        self._history.mark_best(trainers.best_checkpoint(trainer))
        self._teller.end(trainer, self._history.best_step)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give back the thread that writes."""
        self._teller.writer.close()
        self._goes_on = False

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give back the thread that writes: there is no teardown after an exception."""
        self._teller.writer.close()

    def _observe(
        self, trainer: Any, pl_module: Any, session: Session, memory: Memory, moment: Moment
    ) -> Finding:
        """Look once: probes → maps → snapshot → readings → pictures."""
        ranks, watched = trainers.ranks_of(trainer), trainers.watched(trainer)
        with ranks.observing(watched), Progress(trainer, moment.label) as progress:
            mine, self._chunk = sight(
                session,
                pl_module,
                ranks,
                chunk=self._chunk or session.chunk,
                progress=progress,
                fine=self.settings.places,
            )
        seen = Sighting.from_rows(ranks.together(mine.rows(), len(session.probes)))
        with ranks.observing(watched):
            masks = session.masks(pl_module)
            measured = found(
                session,
                seen,
                memory,
                moment,
                settings=self.settings,
                ranks=ranks,
                masks=masks,
                images=session.images(pl_module),
                recorded=self._records(trainer),
            )
        for name in measured.strangers:
            text = f"{name}'s maps are of another size now: its drift starts anew."
            self._teller.warn(trainer, text)
        fits = trainer.state.fn.value == "fit"
        inquiry = Inquiry(
            self.settings,
            session,
            ranks,
            pl_module,
            watched,
            seen,
            measured.now,
            masks,
            self._chunk,
            trainer.optimizers if fits else (),
            trainers.conduct_of(trainer) if fits else None,
            self._resumed,
            self._passed_by,
        )
        followed = followed_up(inquiry, memory, measured.finding, measured.memory)
        self._resumed = False
        self._history.keep(followed.memory)
        for text in followed.warnings:
            self._teller.warn(trainer, text)
        for text in followed.said:
            self._teller.say(trainer, text)
        for what, error in followed.failures:
            self._teller.failed(trainer, error, moment.step, what)
        rates = () if inquiry.conduct is None else inquiry.conduct.rates
        begun = self._go_on(trainer) if fits else (0, 0.0)
        during = Fit(rates, self._history.best_step, *begun)
        return followed.finding.during(during, resumed=inquiry.resumed)

    def _records(self, trainer: Any) -> bool:
        """Whether this observation goes into a record: of fits, where there are event files."""
        fits = trainer.state.fn.value == "fit" and trainer.is_global_zero
        return self.settings.record is not None and fits and bool(boards(trainer.loggers))

    def _start(self, trainer: Any, pl_module: Any) -> None:
        """Prepare, and observe the untrained network, unless a resumed run has done so.

        It proves before the first step that all later observations can work, so its errors stop
        the run: nothing is lost yet.
        """
        begun = time.perf_counter()
        session, step = self._open(trainer, pl_module), trainers.step_of(trainer)
        if self._history.get(session.probes.hash) is not None:
            return
        memory = Memory(session.classes, session.probes.fingerprint)
        moment = Moment(step, "start" if step == 0 else f"step {step}")
        try:
            finding = self._observe(trainer, pl_module, session, memory, moment)
        except ConfigurationError:
            raise
        except Exception as error:
            if not out_of_memory(error):
                raise session.impossible(error) from error
            self._teller.failed(trainer, error, step)
            return
        # The Trainer throws away what is logged in its sanity check, and takes nothing before it.
        times = self._overhead.since(begun, self._teller.failures)
        self._overhead.add(self._teller.tell(trainer, finding.timed(times), step, session))

    def _spend(self, trainer: Any, pl_module: Any, moment: Moment) -> None:
        """Observe now, if the budget allows it or nothing will be validated after this."""
        budget, ranks = self.settings.budget, trainers.ranks_of(trainer)
        if budget is not None:
            wanted = self._overhead.affords(budget) or trainers.validates_no_more(trainer)
            if not ranks.of_first({"": torch.tensor([wanted])})[""]:
                self._left_out = moment, trainer.global_step
                return
        self._look(trainer, pl_module, moment)

    def _look(self, trainer: Any, pl_module: Any, moment: Moment) -> None:
        """Observe now; from here on a failure never stops a run."""
        self._left_out = None
        begun = time.perf_counter()
        finding, unknown = Finding(), None
        try:
            session = self._session or self._open(trainer, pl_module)
            memory = self._history.get(session.probes.hash)
            unknown = session if memory is None else None
            first = Memory(session.classes, session.probes.fingerprint)
            self._teller.warn(trainer, trainers.never_averaged(trainer))
            finding = self._observe(trainer, pl_module, session, memory or first, moment)
        except Exception as error:
            self._teller.failed(trainer, error, moment.step)
        finding = finding.timed(self._overhead.since(begun, self._teller.failures))
        numbers = trainers.ranks_of(trainer).numbers_of_first(finding.numbers)
        finding = finding._replace(numbers=numbers)
        self._overhead.add(self._teller.tell(trainer, finding, moment.step, unknown))
        # For ModelCheckpoint and EarlyStopping. Not by `pl_module.log`, which reduces what is equal
        # on all ranks; and a compiled `self.log` is compiled anew for each further number.
        tagged = self._teller.tagged(numbers)
        trainer.callback_metrics.update({name: torch.tensor(one) for name, one in tagged.items()})

    def _open(self, trainer: Any, pl_module: Any) -> Session:
        """Open a session, and go on with what is remembered of its probes."""
        passing, self._passing = self._passing, Passing(self.settings.fields)
        fits, restored = trainer.state.fn.value == "fit", self._history.restored()
        session = open_session(
            replace(self.settings, probes=self._wanted()),
            trainer,
            pl_module,
            stage=trainer.state.fn.value,
            passing=passing,
            restored=restored if fits else None,
        )
        for text in self._history.recall(self.settings.described()):
            self._teller.warn(trainer, text)
        if fits:
            self._history.fits(session.probes.hash)
        with trainers.ranks_of(trainer).agreeing():
            memory = self._history.brought(session.probes.hash, pl_module.device)
        self._session = session if memory is None else session.going_on(memory)
        return self._session

    def _wanted(self) -> Any:
        """Which probes; of data that can only be iterated no more than a checkpoint has."""
        wanted, restored = self.settings.probes, self._history.restored()
        if restored is None or not isinstance(wanted, int):
            return wanted
        return min(wanted, len(restored.classes))

    def _keep(self, trainer: Any, batch: Any, loader: int) -> None:
        if self._off or self._session is not None or loader != 0:
            return
        stage, wanted = trainer.state.fn.value, self._wanted()
        # Rank 0's examples are watched: each rank has its own part of such data.
        if trainer.is_global_zero and needs_passing_batches(self.settings, trainer, stage):
            self._passing.keep(batch, wanted)

    def _moment(self, trainer: Any, label: str) -> Moment:
        if trainer.state.fn.value != "fit" and self._checkpoint_step is not None:
            return Moment(self._checkpoint_step, label)
        return Moment(trainers.step_of(trainer), label)

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: it opens a session of its own."""
        return {**vars(self), "_session": None}

    @property
    def state_key(self) -> str:
        """The key of this monitor's state in checkpoints."""
        return self._generate_state_key(name=self.settings.name)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and builtins, on the CPU."""
        state = self._history.state(self.settings.described())
        return state and state | {"failures": self._teller.failures, "chunk": self._chunk}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the data is there to compare it with."""
        if not state_dict:
            return
        self._history.load(state_dict)
        self._goes_on = self._resumed = True
        with telling_damage():
            self._teller.failures = state_dict["failures"]
            chunks = {self.settings.chunk, state_dict["chunk"]} - {None}
        self._chunk = min(chunks, default=None)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note the step of the weights, which `trainer.validate` and `trainer.test` forget."""
        self._checkpoint_step = trainers.step_of_checkpoint(checkpoint)
