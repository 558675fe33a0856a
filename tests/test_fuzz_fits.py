"""Real short fits with drawn settings: they run, and log no number that is undefined uncounted."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from cheap_methods import ATTENTION, cheap
from fuzz_draws import fuzz
from hypothesis import given
from hypothesis import strategies as st
from small_fits import SIDE, Events, Net, board, images, labels, loader, trainer

from lightning_saliency import Every, SaliencyMonitor
from lightning_saliency.measures import MEASURES

EXAMPLES = 12

# One probe alone has no others as a background; Eigen-CAM knows no score, and Score-CAM weighs
# channels alike where all scores are the same: they have maps of a dead net.
LEFT_OUT = (*ATTENTION, "gradient_shap", "eigen_cam", "score_cam")
FITTING = [name for name in cheap(SIDE) if name not in LEFT_OUT]
methods = st.lists(st.sampled_from(FITTING), min_size=1, max_size=3, unique=True).map(
    lambda drawn: {name: cheap(SIDE)[name] for name in drawn}
)
arguments = st.fixed_dictionaries(
    {
        "methods": methods,
        "probes": st.integers(1, EXAMPLES + 3) | st.just([5]),
        "target": st.sampled_from(["margin", "logit", "log_prob", "prob", "output"]),
        "target_class": st.sampled_from(["label", "prediction", 0]),
        "measures": st.sampled_from([None, [], list(MEASURES)]),
        "reference": st.sampled_from(["previous", "first", 0, 3]),
        "chunk": st.integers(1, EXAMPLES + 3),
        "mask": st.sampled_from([None, 2]),
    }
).filter(lambda one: one["mask"] is not None or not one["measures"])  # grounding needs masks


class Dying(Net):
    """After given steps its outputs do not depend on its inputs, so that all maps are zero."""

    def __init__(self, classes: int, channels: int, dead: list[int]) -> None:
        super().__init__(classes, channels)
        self.dead = dead
        self.die()

    def die(self) -> None:
        if self.seen in self.dead:
            with torch.no_grad():
                for weight in self.head.parameters():
                    weight.zero_()

    def on_train_batch_end(self, *_: Any) -> None:
        self.die()


# By the x of Lightning's own validation scalars: 1 after two steps.
OBSERVED = {"1": [0, 1, 3, 5], "2": [0, 1, 5], "epoch": [0, 1, 3, 5], "late": [0, 3, 5]}
TURNS: dict[str, int | Every] = {
    "1": 1,
    "2": 2,
    "epoch": Every(1, "epoch"),
    "late": Every(1, start=1),
}


@fuzz(10)
@given(
    given_arguments=arguments,
    turn=st.sampled_from(list(TURNS)),
    classes=st.integers(1, 4),
    channels=st.integers(1, 3),
    dead=st.lists(st.sampled_from([0, 2, 4, 6]), max_size=4, unique=True),
)
def test_a_fit_logs_no_undefined_number_uncounted(
    given_arguments: dict[str, Any], turn: str, classes: int, channels: int, dead: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        monitor = SaliencyMonitor(on_error="raise", every=TURNS[turn], **given_arguments)
        covered = torch.zeros(EXAMPLES, SIDE, SIDE)
        covered[:, 2:5, 2:5] = 1
        data = images(EXAMPLES, channels), labels(EXAMPLES, classes), covered
        fit = trainer(callbacks=[monitor], logger=board(Path(folder)), max_epochs=3)
        fit.fit(Dying(classes, channels, dead), loader(*data), loader(*data))
        logged = Events(Path(folder)).scalars
    assert list(logged["saliency/undefined"]) == OBSERVED[turn]
    assert set(logged["saliency/failures"].values()) == {0.0}
    shares = logged["saliency/undefined"]
    for step in dead:
        assert shares.get(max(0, step - 1), 1) == 1, "a dead net has no map"
    for tag, values in logged.items():
        counted = logged.get(f"{'/'.join(tag.split('/')[:2])}/undefined")
        for step, value in values.items():
            due = counted and any(counted[when] == 1 for when in counted if when <= step)
            due = due or (tag == "saliency/magnitude" and shares[step] > 0)
            assert math.isfinite(value) or due, (tag, step, value)
