"""Captum's classes as methods: the same numbers as a call to captum, and clear refusals."""

from __future__ import annotations

import inspect
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from attribution_nets import F64, Closed, Deep, close, deep_case, hooks_on, images
from captum import attr
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lightning_saliency.attribution import Method, MethodName, captum_bridge, explain
from lightning_saliency.attribution.captum_bridge import Captum
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.observation import observing

QUARTERS = torch.arange(143).view(1, 1, 11, 13) // 40
TWO = torch.stack([torch.zeros(3, 11, 13), torch.ones(3, 11, 13)]).to(F64)

CASES: list[Captum] = [
    Captum("Saliency", attribute={"abs": False}),
    Captum("InputXGradient"),
    Captum("IntegratedGradients", {"multiply_by_inputs": False}, {"n_steps": 6}),
    Captum("IntegratedGradients", attribute={"n_steps": 6, "return_convergence_delta": True}),
    Captum("DeepLift", {"multiply_by_inputs": False}, {"baselines": 0.3}),
    Captum("captum.attr.DeepLiftShap", attribute={"baselines": TWO}),
    Captum("GradientShap", attribute={"baselines": TWO, "n_samples": 3}),
    Captum("GuidedBackprop"),
    Captum("Deconvolution"),
    Captum("GuidedGradCam", layer="second"),
    Captum("LRP"),
    Captum("Occlusion", attribute={"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}),
    Captum("FeatureAblation", attribute={"feature_mask": QUARTERS, "baselines": 1}),
    Captum("FeaturePermutation", attribute={"feature_mask": QUARTERS}),
    Captum("ShapleyValueSampling", attribute={"feature_mask": QUARTERS, "n_samples": 2}),
    Captum("KernelShap", attribute={"feature_mask": QUARTERS, "n_samples": 10}),
    Captum("LayerGradCam", attribute={"relu_attributions": True}, layer="second"),
    Captum("LayerActivation", layer="act"),
    Captum("LayerConductance", attribute={"n_steps": 5}, layer="first"),
    Captum("LayerIntegratedGradients", attribute={"n_steps": 5}, layer="first"),
    Captum("LayerDeepLift", layer="second"),
    Captum("InternalInfluence", attribute={"n_steps": 5}, layer="first"),
    Captum("NeuronGradient", attribute={"neuron_selector": (1, 2, 2)}, layer="second"),
]


def by_hand(method: Captum, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The call that captum's documentation tells, after seeding."""
    kind = getattr(attr, method.name.split(".")[-1])
    layer = [model.get_submodule(method.layer)] if method.layer else []
    call = dict(method.attribute or {})
    known = inspect.signature(kind.attribute).parameters
    if "target" in known:
        call["target"] = targets
    if "internal_batch_size" in known:
        call["internal_batch_size"] = 2 * len(inputs)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer = kind(model, *layer, **(method.arguments or {}))
        found = explainer.attribute(inputs.clone().requires_grad_(), **call)
    first: Tensor = found[0] if isinstance(found, tuple) else found
    return first.detach()


@pytest.mark.parametrize("method", CASES, ids=lambda one: f"{one.__name__}-{one.layer}")
def test_a_class_by_its_name_is_the_call_by_hand(method: Captum) -> None:
    """Bit for bit; through the engine, whose model hides the layers of the user's."""
    model, inputs, targets = deep_case(3)
    wanted = by_hand(method, Deep(), inputs, targets)
    assert wanted.abs().max() > 0
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    ours = explain(model, inputs, targets, {"m": method}).maps["m"]
    assert torch.equal(ours.signed, wanted.to(ours.signed.dtype))
    assert torch.equal(ours.map, ours.signed.abs().amax(1))
    assert not method(model, inputs, targets).requires_grad
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == streams[1:]  # type: ignore[index]
    assert hooks_on(model) == 0


def test_lime_with_a_model_of_its_own_by_class_path() -> None:
    made = {
        "class_path": "captum._utils.models.linear_model.SkLearnRidge",
        "init_args": {"alpha": 2},
    }
    method = Captum(
        "Lime", {"interpretable_model": made}, {"n_samples": 12, "feature_mask": QUARTERS}
    )
    model, inputs, targets = deep_case(2)
    ours = method(model, inputs, targets)
    from captum._utils.models.linear_model import SkLearnRidge

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = attr.Lime(model, SkLearnRidge(alpha=2)).attribute(
            inputs, target=targets, n_samples=12, feature_mask=QUARTERS
        )
    assert torch.equal(ours, wanted)
    assert ours.abs().max() > 0


def test_noise_tunnel_wraps_a_class_and_leaves_the_random_streams() -> None:
    method = Captum(
        "NoiseTunnel",
        {"multiply_by_inputs": False},
        {"nt_samples": 4, "stdevs": 0.2, "n_steps": 3},
        wraps="IntegratedGradients",
    )
    model, inputs, targets = deep_case(2)
    torch.manual_seed(77)
    before = torch.get_rng_state()
    ours = method(model, inputs, targets)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(ours, method(model, inputs, targets))
    torch.manual_seed(0)
    inner = attr.IntegratedGradients(model, multiply_by_inputs=False)
    wanted = attr.NoiseTunnel(inner).attribute(
        inputs,
        nt_samples=4,
        nt_samples_batch_size=1,
        stdevs=0.2,
        n_steps=3,
        target=targets,
        internal_batch_size=4,
    )
    assert torch.equal(ours, wanted)
    other = Captum("NoiseTunnel", attribute={"nt_samples": 4}, wraps="Saliency", seed=1)
    again = Captum("NoiseTunnel", attribute={"nt_samples": 4}, wraps="Saliency", seed=2)
    assert not torch.equal(other(model, inputs, targets), again(model, inputs, targets))


def test_integration_holds_no_more_than_two_steps_at_once() -> None:
    model, inputs, targets = deep_case(2)
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    Captum("IntegratedGradients", attribute={"n_steps": 20})(model, inputs, targets)
    assert max(sizes) == 4
    Captum("IntegratedGradients", attribute={"n_steps": 20, "internal_batch_size": 8})(
        model, inputs, targets
    )
    hook.remove()
    assert max(sizes) == 8


@pytest.mark.parametrize("how", ["signed", "l2", "positive"])
def test_channels_are_reduced_as_said(how: Any) -> None:
    from lightning_saliency.attribution.method import over_channels

    model, inputs, targets = deep_case(2)
    method = Captum("InputXGradient", channels=how)
    raw = Captum("InputXGradient")(model, inputs, targets)
    ours = explain(model, inputs, targets, {"m": method}).maps["m"]
    close(ours.map, over_channels(raw, how))
    assert method.signed == (how == "signed")


class Binary(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body, self.shape = Deep(), shape

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs)[:, 0].reshape(-1, *self.shape)
        return found


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("name", ["Saliency", "DeepLift"])
def test_a_single_logit_counts_as_two_scores(name: str, shape: tuple[int, ...]) -> None:
    inputs = images(2, 3, 11, 13)
    attribute = {"abs": False} if name == "Saliency" else None
    method = Captum(name, attribute=attribute)
    ours = method(Binary(shape), inputs, torch.tensor([1, 0]))
    wanted = method(Deep(), inputs, torch.tensor([0, 0]))
    close(ours[:1], wanted[:1])
    close(ours[1:], -wanted[1:])


def test_tokens_of_a_layer_become_a_map() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 4, 4, stride=4).to(F64)
            self.block = nn.Linear(4, 4).to(F64)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.block(self.patch(inputs).flatten(2).mT).tanh().sum(1)
            return found

    torch.manual_seed(0)
    model, inputs, targets = Tokens(), images(2, 3, 8, 12), torch.tensor([0, 3])
    maps = explain(model, inputs, targets, {"m": Captum("LayerActivation", layer="block")}).maps
    with torch.no_grad():
        wanted = model.block(model.patch(inputs).movedim(1, -1)).movedim(-1, 1)
    close(maps["m"].signed, wanted)


class TwoOutputs(Deep):
    class Pair(nn.Module):
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return inputs * 1, inputs * 2

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.Pair()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = super().forward(sum(self.pair(inputs)))
        return found


def test_a_layer_that_returns_several_tensors_is_told() -> None:
    method = Captum("LayerActivation", layer="pair")
    with pytest.raises(ConfigurationError, match=r"returns a tuple of 2, not one tensor: name a l"):
        explain(TwoOutputs(), *deep_case(1)[1:], {"m": method})


def test_an_observation_leaves_no_trace() -> None:
    model, inputs, targets = deep_case(2)
    model.train()
    model.first.requires_grad_(False)
    methods = {name: Captum(name) for name in ("DeepLift", "GuidedBackprop", "LRP", "Saliency")}
    before = {key: dict(part.__dict__) for key, part in model.named_modules()}
    with observing(model):
        explain(model, inputs, targets, dict(methods))
        wrong = Captum("DeepLift", attribute={"baselines": TWO[:1, :2]})
        # In the middle of captum's own hooks.
        with pytest.raises(ConfigurationError, match="'m' raised"):
            explain(model, inputs, targets, {"m": wrong})
    assert hooks_on(model) == 0
    assert all(part.training for part in model.modules())
    assert {key: dict(part.__dict__) for key, part in model.named_modules()} == before
    assert all(one.grad is None for one in model.parameters())
    assert [one.requires_grad for one in model.first.parameters()] == [False, False]


YAML: list[tuple[dict[str, Any], Captum]] = [
    ({"name": "DeepLift"}, Captum("DeepLift")),
    (
        {"name": "captum.attr.Occlusion", "attribute": {"sliding_window_shapes": [3, 4, 4]}},
        Captum("captum.attr.Occlusion", attribute={"sliding_window_shapes": [3, 4, 4]}),
    ),
    (
        {"name": "LayerGradCam", "layer": "second", "attribute": {"relu_attributions": True}},
        Captum("LayerGradCam", None, {"relu_attributions": True}, "second"),
    ),
    (
        {
            "name": "GradientShap",
            "arguments": {"multiply_by_inputs": False},
            "attribute": {"baselines": "test_attribution_captum.TWO", "n_samples": 2},
        },
        Captum("GradientShap", {"multiply_by_inputs": False}, {"baselines": TWO, "n_samples": 2}),
    ),
    (
        {"name": "NoiseTunnel", "wraps": "DeepLift", "channels": "signed", "seed": 3},
        Captum("NoiseTunnel", wraps="DeepLift", channels="signed", seed=3),
    ),
]


@pytest.mark.parametrize(("init_args", "method"), YAML, ids=lambda one: getattr(one, "name", ""))
def test_from_a_config(init_args: dict[str, Any], method: Captum) -> None:
    """As the monitor's `methods` are read by LightningCLI."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--methods", type=dict[str, MethodName | Method | Captum])
    path = "lightning_saliency.attribution.captum_bridge.Captum"
    config = {"methods": {"mine": {"class_path": path, "init_args": init_args}}}
    made = parser.instantiate_classes(parser.parse_object(config)).methods["mine"]
    model, inputs, targets = deep_case(2)
    assert isinstance(made, Captum)
    assert torch.equal(made(model, inputs, targets), method(model, inputs, targets))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "DeepLft"}, r"name='DeepLft'\) is not a class of captum.attr. Did you mean 'Dee"),
        ({"name": "nowhere.DeepLift"}, "nothing can be imported as 'nowhere.DeepLift'"),
        ({"name": "captum.attr.LLMAttribution"}, "is no attribution of images"),
        ({"name": "captum.attr.visualization"}, "is no attribution of images"),
        ({"name": 3}, r"name=3\) is not a class"),
        ({"name": "Saliency", "arguments": {"model": 1}}, "arguments has no 'model'"),
        (
            {"name": "Saliency", "attribute": {"baselines": 1}},
            r"Captum\(name='Saliency'\): attribute has no 'baselines'. Known: 'abs'",
        ),
        (
            {"name": "DeepLift", "attribute": {"baseline": 1}},
            "attribute has no 'baseline'. Did you mean 'baselines'",
        ),
        ({"name": "LayerDeepLift"}, "needs layer=…, the dotted name of a layer"),
        ({"name": "DeepLift", "layer": "first"}, "takes no layer='first': leave it out"),
        ({"name": "NoiseTunnel"}, "needs wraps=…, the name of the class that it wraps"),
        ({"name": "NoiseTunnel", "wraps": "Salency"}, r"wraps='Salency'\) .* mean 'Saliency'"),
        ({"name": "Saliency", "wraps": "DeepLift"}, "wraps nothing: leave wraps=… out"),
        ({"name": "Saliency", "channels": "mean"}, "channels='mean' is not a reduction"),
        ({"name": "Saliency", "seed": -1}, r"Captum\(seed=-1\)"),
    ],
)
def test_wrong_arguments_are_told_when_the_method_is_made(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Captum(**given)


def test_an_unknown_layer_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"layer='secnd'.*Did you mean 'second'"):
        explain(Deep(), *deep_case(1)[1:], {"m": Captum("LayerDeepLift", layer="secnd")})


def test_what_captum_refuses_is_told_with_the_method() -> None:
    method = Captum("Occlusion", attribute={"sliding_window_shapes": (3, 40, 40)})
    with pytest.raises(ConfigurationError, match=r"'m' raised AssertionError: Sliding window dim"):
        explain(Deep(), *deep_case(1)[1:], {"m": method})


def test_missing_captum_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captum_bridge, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-saliency\[captum\]'"):
        Captum("DeepLift")


def test_names_in_a_list_differ() -> None:
    names = [Captum(name).__name__ for name in ("DeepLift", "LRP", "IntegratedGradients")]
    assert names == ["captum_deep_lift", "captum_lrp", "captum_integrated_gradients"]
    assert type(Captum("LRP")).__qualname__ == "Captum"
    assert repr(Captum("LRP")).startswith("Captum(name='LRP', arguments=None")


def test_layers_are_those_of_the_users_model() -> None:
    """The closed net, where Grad-CAM is a sum of three numbers."""
    model, inputs, targets = Closed(), images(2, 2, 6, 7), torch.tensor([0, 3])
    maps = explain(model, inputs, targets, {"m": Captum("LayerGradCam", layer="relu")}).maps
    with torch.no_grad():
        features = model.relu(model.conv(inputs))
        wanted = torch.einsum("nk,nkhw->nhw", model.head.weight[targets] / 30, features)
    close(maps["m"].signed[:, 0], wanted)
