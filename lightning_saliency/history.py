"""What a monitor remembers over fits, tests and checkpoints: one memory for each set of probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from lightning_saliency.errors import ConfigurationError, in_words
from lightning_saliency.memory import Memory

VERSION = 1
"""Of the state in checkpoints."""


class History:
    """Memories by the hash of their probes, and what of them a checkpoint takes along.

    A test has other probes than the fit before it; only the fit's memory goes into checkpoints.

    Attributes:
        seen: validations of this fit so far.
        validations: those of them from the first epoch on that is observed.
        best_step: of the best checkpoint, as far as it is known.
    """

    def __init__(self) -> None:
        self._memories: dict[str, Memory] = {}
        self._fitted = ""  # the hash of the fit's probes
        self._restored: tuple[Mapping[str, Any], Memory] | None = None  # not yet held against data
        self._observed = -1  # which of the validations seen was observed last
        self._best: list[Any] = []  # path and score of the best checkpoint, as far as it is known
        self._marked: list[Any] = []  # the same, whatever the reference is
        self._validated: int | None = None  # step of the validation before
        self.best_step: int | None = None
        self.seen = 0
        self.validations = 0

    def get(self, probes: str) -> Memory | None:
        """The memory of the probes with this hash, if they were observed before."""
        return self._memories.get(probes)

    def brought(self, probes: str, device: torch.device) -> Memory | None:
        """The same, with its maps on the device where the next ones will be."""
        if probes not in self._memories:
            return None
        self._memories[probes] = self._memories[probes].to(device)
        return self._memories[probes]

    def keep(self, memory: Memory) -> None:
        """Take in the memory after an observation."""
        self._memories[memory.probes.hash] = memory
        self._observed = self.seen

    def fits(self, probes: str) -> None:
        """Note that a fit watches the probes with this hash."""
        self._fitted = probes

    def restored(self) -> Memory | None:
        """The memory of a checkpoint that was loaded and not yet recalled."""
        return None if self._restored is None else self._restored[1]

    def recall(self, settings: Mapping[str, str]) -> list[str]:
        """Take over the memory of a checkpoint, but for what was configured otherwise then.

        Args:
            settings: what maps depend on now, in words.

        Returns:
            What the user should know of it.
        """
        if self._restored is None:
            return []
        state, memory = self._restored
        then: Mapping[str, str] = state["settings"]
        self._restored, self._fitted = None, memory.probes.hash
        names = settings.keys() | then.keys()
        changed = {what for what in names if settings.get(what) != then.get(what)}
        if "reference" in changed:
            changed, memory, self._best = changed - {"reference"}, memory.without_reference(), []
        anew = changed & {"target", "target_class"}
        if not anew:
            methods = {what.removeprefix("methods: ") for what in changed}
            self._memories[self._fitted] = memory.without(methods)
        return [
            f"{what} is not what it was in the checkpoint: it "
            + ("starts its drift anew." if what in settings else "is no longer watched.")
            for what in sorted(anew or changed)
        ]

    def mark_best(self, best: list[Any], step: int | None = None) -> None:
        """Note of which step the best checkpoint is: if it is new, of the validation before.

        Args:
            best: its path and score; empty before there is one.
            step: of the validation that is just done; None after the last one.
        """
        if best not in ([], self._marked):
            self._marked, self.best_step = best, self._validated
        self._validated = self._validated if step is None else step

    def follow_best(self, best: list[Any]) -> str | None:
        """Make the best checkpoint's observation the reference.

        Checkpoints are written after an observation, so a best one that is new is of the validation
        before.

        Args:
            best: its path and score; empty before there is one.

        Returns:
            What the user should know, if that validation was not observed.
        """
        if best in ([], self._best):
            return None
        self._best = best
        memory = self._memories.get(self._fitted)
        if memory is not None and self._observed == self.seen:
            previous = memory.snapshots["previous"]
            self._memories[self._fitted] = memory.with_reference(previous)
            return None
        return (
            "the best checkpoint is of a validation that was not observed, so the reference stays "
            "what it was. With every=1 and no budget each one is."
        )

    def state(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """What a checkpoint takes along: tensors and builtins, on the CPU; empty before anything.

        Args:
            settings: what maps depend on, in words.
        """
        memory = self._memories.get(self._fitted)
        if self._restored is not None or memory is None:
            return dict(self._restored[0]) if self._restored is not None else {}
        return {
            "version": VERSION,
            "settings": dict(settings),
            "memory": memory.state(),
            "validations": self.validations,
            "seen": self.seen,
            "observed": self._observed,
            "best": self._best,
            "marked": [self._marked, self._validated, self.best_step],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Keep a checkpoint's state until there is data to hold it against.

        Raises:
            ConfigurationError: it is of another version, or not what `state` gave.
        """
        version = state.get("version")
        if version is not None and version != VERSION:
            raise ConfigurationError(
                f"The checkpoint holds a SaliencyMonitor state of version {version}, this is "
                f"version {VERSION}. Resume with the release that wrote it, or without the monitor."
            )
        with telling_damage():
            self._restored, self._memories = (state, Memory.from_state(state["memory"])), {}
            self.validations, self.seen = state["validations"], state["seen"]
            self._observed, self._best = state["observed"], state["best"]
            # Checkpoints from before there was a record don't have it.
            self._marked, self._validated, self.best_step = state.get("marked", [[], None, None])
            _ = state["version"], state["settings"].keys()


def left_by(path: str, name: str) -> Memory:
    """What a monitor remembered when a checkpoint was written.

    Args:
        path: of the checkpoint.
        name: of the monitor.

    Raises:
        ConfigurationError: no such file, no checkpoint, or none that such a monitor took part in.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        states = checkpoint.get("callbacks", {})
    except Exception as error:
        raise ConfigurationError(
            f"{path!r} can't be read as a checkpoint: {in_words(error)}"
        ) from error
    wanted = f"{{'name': {name!r}}}"
    for key, state in states.items():
        if "Saliency" in str(key) and str(key).endswith(wanted) and state:
            with telling_damage():
                return Memory.from_state(state["memory"])
    known = ", ".join(map(str, states)) or "none"
    raise ConfigurationError(
        f"{path!r} holds no observations of a SaliencyMonitor of the name {name!r}. The callbacks "
        f"in it: {known}."
    )


@contextmanager
def telling_damage() -> Iterator[None]:
    """Read a checkpoint's state, and say so where something in it is missing or of another kind."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"The checkpoint's state of the SaliencyMonitor is damaged ({in_words(error)}). Resume "
            "from another checkpoint, or without the monitor."
        ) from error
