"""KernelSHAP, LIME, Occlusion and RISE in configs; errors that tell the argument and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from attribution_nets import Deep, deep_case, images
from jsonargparse import ArgumentParser
from test_attribution_segments import halves_and_quarters, one
from torch import Tensor

from lightning_saliency.attribution import Method
from lightning_saliency.attribution.perturbation import RISE, Occlusion
from lightning_saliency.attribution.segments import LIME, KernelSHAP
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KernelSHAP(samples=0), r"KernelSHAP\(samples=0\): give at least 1"),
        (lambda: LIME(cells=0), r"LIME\(cells=0\)"),
        (lambda: LIME(seed=1.5), r"seed=1.5"),  # type: ignore[arg-type]
        (lambda: LIME(baseline="mean"), r"baseline='mean'"),  # type: ignore[arg-type]
        (lambda: LIME(width=0), r"LIME\(width=0\): give a number above 0"),
        (lambda: LIME(alpha=float("inf")), r"alpha=inf"),
        (lambda: KernelSHAP(segments="slick"), r"segments='slick'\).*Did you mean 'slic'"),  # type: ignore[arg-type]
        (lambda: KernelSHAP(segments="nowhere.f"), r"nothing can be imported as 'nowhere.f'"),  # type: ignore[arg-type]
        (lambda: KernelSHAP(segments=3), r"segments=3\) is not a way"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_told_when_the_method_is_made(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def spoilt(image: Tensor) -> Any:
    raise ValueError("no edges")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (KernelSHAP(cells=12), r"KernelSHAP\(cells=12\) divides sides of \(11, 13\)"),
        (KernelSHAP(samples=97), r"samples=97\) can't tell 49 segments apart: give at least samp"),
        (
            LIME(segments=lambda image: image[0]),
            r"labels are float32 \(11, 13\); give whole numbers",
        ),
        (
            LIME(segments=lambda image: [1, 2]),
            r"labels are int64 \(2,\); give .* \(11, 13\), one for",
        ),
        (LIME(segments=lambda image: "a"), r"labels are <U1 \(\)"),
        (
            LIME(segments=spoilt),
            r"segments: 'spoilt' raised ValueError: no edges\. It .* image \(3, 11, 13\); correct",
        ),
        (
            KernelSHAP(segments="test_attribution_segments_words.spoilt"),  # type: ignore[arg-type]
            r"segments: 'test_attribution_segments_words.spoilt' raised ValueError",
        ),
        (LIME(baseline=(0.0, 1.0)), "has 2 numbers, the inputs have 3 channels"),
    ],
)
def test_what_does_not_fit_the_inputs_is_told(method: Method, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        one(method, Deep(), *deep_case(1)[1:])


@pytest.mark.parametrize(
    ("name", "init_args", "method"),
    [
        ("segments.KernelSHAP", {"cells": 3, "samples": 20}, KernelSHAP(cells=3, samples=20)),
        (
            "segments.LIME",
            {"segments": "slic", "baseline": [0.1, 0.2], "width": 1},
            LIME(segments="slic", baseline=(0.1, 0.2), width=1.0),
        ),
        (
            "segments.LIME",
            {"segments": "test_attribution_segments.halves_and_quarters"},
            LIME(segments=halves_and_quarters),
        ),
        ("perturbation.Occlusion", {"window": [3, 4]}, Occlusion(window=(3, 4))),
        ("perturbation.RISE", {"masks": 9, "p": 0.4}, RISE(masks=9, p=0.4)),
    ],
)
def test_from_a_config(name: str, init_args: dict[str, Any], method: Method) -> None:
    """As the monitor's `methods` are read by LightningCLI; and back."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--methods", type=dict[str, Method])
    path = f"lightning_saliency.attribution.{name}"
    read = parser.parse_object({"methods": {"m": {"class_path": path, "init_args": init_args}}})
    made = parser.instantiate_classes(read).methods["m"]
    assert repr(made).replace("lightning_saliency.", "") == repr(method)
    assert type(made) is type(method)
    again = parser.instantiate_classes(parser.parse_string(parser.dump(read))).methods["m"]
    assert repr(again) == repr(made)


def test_the_description_has_no_tensors() -> None:
    method = KernelSHAP(samples=14, cells=2)
    bound = method.bind(Subject(Deep()), images(1, 3, 11, 13))
    assert repr(bound) == repr(method)
    assert "samples=14, segments='grid', cells=2, baseline=0.0, seed=0" in repr(method)
    assert bound == method
