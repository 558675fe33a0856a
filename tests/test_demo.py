"""The demo tells its story: run whole, and read back from its event file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency.cli import main

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
EPOCHS = 8
FIXED_AT = 4


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = tmp_path_factory.mktemp("demo")
    cli = main(
        [
            "fit",
            f"--config={CONFIG}",
            f"--trainer.logger.init_args.save_dir={folder}",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
    )
    found = EventAccumulator(
        cli.trainer.log_dir, size_guidance={"images": 0, "scalars": 0, "tensors": 0}
    )
    found.Reload()
    return found


def curve(events: EventAccumulator, tag: str) -> list[float]:
    """A scalar after each epoch; that of the untrained network, at step 0, is left out."""
    return [event.value for event in events.Scalars(tag) if event.step > 0]


def test_the_usual_accuracy_is_content_at_once(events: EventAccumulator) -> None:
    assert curve(events, "accuracy/validation")[0] >= 0.99
    assert max(curve(events, "accuracy/honest")[:FIXED_AT]) <= 0.4
    assert curve(events, "accuracy/honest")[-1] >= 0.9


@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "layer_cam"])
def test_maps_lie_on_the_patch_until_the_fix(events: EventAccumulator, method: str) -> None:
    mass = curve(events, f"saliency/{method}/relevance_mass")
    assert len(mass) == EPOCHS
    assert mass[FIXED_AT - 1] >= 0.2
    assert mass[-1] <= 0.03
    assert curve(events, "saliency/mask_area")[0] == pytest.approx(16 / 784)


@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "layer_cam"])
def test_the_largest_drift_is_at_the_fix(events: EventAccumulator, method: str) -> None:
    drift = curve(events, f"saliency/{method}/drift_previous")
    assert len(drift) == EPOCHS
    assert int(np.argmax(drift[1:])) + 1 == FIXED_AT
    assert drift[FIXED_AT] > 5 * drift[FIXED_AT - 1]


def test_pictures_stand_at_the_steps_of_the_curves(events: EventAccumulator) -> None:
    steps = [event.step for event in events.Scalars("accuracy/validation")]
    grids = [event.step for event in events.Images("saliency/gradient")]
    strips = [event.step for event in events.Images("saliency/gradient/filmstrip")]
    assert grids == [0, *steps]
    assert strips == steps


def test_an_observation_is_small(events: EventAccumulator) -> None:
    """By default there is one method: a grid and a filmstrip."""
    grids = [len(event.encoded_image_string) for event in events.Images("saliency/gradient")]
    strips = [
        len(event.encoded_image_string) for event in events.Images("saliency/gradient/filmstrip")
    ]
    assert max(grids) + max(strips) <= 700_000


def test_pictures_can_be_opened_and_are_wide(events: EventAccumulator) -> None:
    for tag in ("saliency/gradient", "saliency/gradient/filmstrip"):
        event = events.Images(tag)[-1]
        picture = Image.open(io.BytesIO(event.encoded_image_string))
        assert picture.size == (event.width, event.height)
        assert 1 <= event.width / event.height <= 4
        assert np.asarray(picture).std() > 10, "not an empty picture"


def test_the_log_says_what_was_seen(events: EventAccumulator) -> None:
    (event,) = events.Tensors("saliency/about/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "LayerCAM(layer='features.4')" in text
    assert "Margin()" in text
    assert "--samples_per_plugin images=1000" in text
    assert curve(events, "saliency/failures") == [0.0] * EPOCHS
