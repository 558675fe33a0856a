"""Ablation-CAM: the drops that its definition asks for, and the passes that it saves."""

from __future__ import annotations

import copy

import pytest
import torch
from attribution_nets import F64, Closed, Deep, close, counting, deep_case, hooks_on, images, resnet
from attribution_transformers import HUGGING_FACE_BLOCKS
from test_attribution_cam_models import case_of
from test_attribution_parity import Case, grad_cam, signed_map
from torch import Tensor, nn

from lightning_saliency.attribution import AnyMethod, Saliency, Subject, bind, explain
from lightning_saliency.attribution.cam_ablation import AblationCAM, Fold, fold_of
from lightning_saliency.targets import Logit, Margin


def naive(case: Case, axis: int = 1, rows: int = 0, most: int | None = None) -> Tensor:
    """Σ_k w_k A_k, with w_k = (s − s without channel k) / |s| by a full pass for each channel."""
    model, inputs, targets, layer = case
    module = model.get_submodule(layer)
    seen: list[Tensor] = []
    look = module.register_forward_hook(lambda m, a, output: seen.append(output.detach().clone()))
    with torch.no_grad():
        score = Logit()(model(inputs), targets)
    look.remove()
    activation = seen[0].movedim((rows, axis), (0, 1))
    size = activation.flatten(2).abs().sum(2)
    kept = size >= size.topk(most or size.shape[1], 1).values[:, -1:]
    drops = torch.zeros_like(size)
    for channel in kept.any(0).nonzero().flatten().tolist():

        def without(m: nn.Module, a: object, output: Tensor, channel: int = channel) -> Tensor:
            ablated = output.clone()
            ablated.select(axis, channel).zero_()
            return ablated

        hook = module.register_forward_hook(without)
        with torch.no_grad():
            drops[:, channel] = (score - Logit()(model(inputs), targets)) / score.abs()
        hook.remove()
    return torch.einsum("nk,nk...->n...", drops * kept, activation)[:, None]


class Skips(nn.Module):
    """Two residual blocks, and a path of the input to the head if asked for."""

    def __init__(self, past: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(5)
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.one, self.two = Residual(), Residual()
            self.head = nn.Linear(6, 4)
        self.past = past
        self.to(F64).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.two(self.one(self.stem(inputs)))
        if self.past:
            hidden = hidden * (1 + inputs.mean(1, keepdim=True))
        scores: Tensor = self.head(hidden.tanh().mean((2, 3)))
        return scores


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, hidden: Tensor) -> Tensor:
        bent: Tensor = self.act(self.conv(hidden))
        return hidden + bent


class Rows(Deep):
    """A model that goes back to the number of its inputs: other rows can't be put in."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.squash(self.second(self.act(self.first(inputs))))
        scores: Tensor = self.head(hidden.reshape(len(inputs), -1))
        return scores


def skips(layer: str, past: bool = False) -> Case:
    return Skips(past), images(4, 3, 8, 9), torch.tensor([0, 3, 1, 2]), layer


def deep(layer: str, model: nn.Module | None = None) -> Case:
    return model or Deep(), images(4, 3, 11, 13), torch.tensor([0, 3, 1, 2]), layer


CASES: dict[str, tuple[Case, str, int]] = {
    "closed": ((Closed(), images(4, 2, 6, 7), *deep("relu")[2:]), "relu", 1),
    "first": (deep("first"), "first", 1),
    "last": (deep("squash"), "squash", 3),
    "in place": (deep("first", Deep(inplace=True)), "first", 1),
    "a whole block": (skips("one"), "one", 1),
    "past a skip": (skips("two.conv"), "one", 1),
    "past the first skip": (skips("one.act"), "stem", 1),
    "past all": (skips("two", past=True), "", 1),
    "rows of the input": (deep("squash", Rows()), "", 1),
}
"""The case, the cut that is found, and the channels of one pass."""


@pytest.mark.parametrize("name", CASES)
def test_ablation_cam_is_its_definition_wherever_the_layer_lies(name: str) -> None:
    case, cut, copies = CASES[name]
    model, inputs, _, layer = case
    fold = fold_of(Subject(model), inputs[:1], layer)
    assert fold == Fold(0, 1, cut, copies)
    close(signed_map(AblationCAM(layer), case), naive(case), relative=1e-9)
    assert hooks_on(model) == 0


@pytest.mark.parametrize(("layer", "cut"), [("layer4", "layer4"), ("layer4.1.bn2", "layer4.0")])
def test_ablation_cam_of_a_resnet_is_its_definition(layer: str, cut: str) -> None:
    """Of the most active channels: full passes for all 512 would take a minute."""
    case: Case = (resnet(), images(2, 3, 64, 64), torch.tensor([3, 9]), layer)
    method = AblationCAM(layer, channels=5).bind(Subject(resnet()), case[1])
    assert method.folds == (Fold(0, 1, cut, 32),)
    close(signed_map(method, case), naive(case, most=5), relative=1e-9)


@pytest.mark.parametrize(
    ("model", "layer", "axis", "cut"),
    [
        ("torchvision vit", "encoder.layers.encoder_layer_1", 2, "encoder.layers.encoder_layer_1"),
        ("timm vit", "blocks.2.norm1", 2, "blocks.1"),
        (
            "hugging face vit",
            f"{HUGGING_FACE_BLOCKS}.2.layernorm_before",
            2,
            f"{HUGGING_FACE_BLOCKS}.1",
        ),
        ("torchvision swin", "features.1.1", 3, "features.1.1"),
    ],
)
def test_channels_of_tokens_are_at_zero_in_every_token(
    model: str, layer: str, axis: int, cut: str
) -> None:
    net, inputs, targets = case_of(model)
    fold = fold_of(Subject(net), inputs[:1], layer)
    assert (fold.channels, fold.cut) == (axis, cut)
    assert fold.copies == 1 or axis == 3, "the MLP above is as wide as any below"
    ours = signed_map(AblationCAM(layer), (net, inputs, targets, layer))
    theirs = naive((net, inputs, targets, layer), axis)
    if axis == 2:  # without the class token
        theirs = torch.unflatten(theirs[:, :, 1:], 2, (4, 4))
    close(ours, theirs, relative=1e-9)


def test_attention_that_has_its_probes_second_is_ablated_too() -> None:
    class Second(nn.Module):
        """Tokens (T, n, D)."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, 6)
            self.head = nn.Linear(6, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = self.mix(self.embed(inputs).flatten(2).permute(2, 0, 1)).tanh()
            scores: Tensor = self.head((tokens**2).mean(0))
            return scores

    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        net = Second().to(F64)
    inputs, targets = images(3, 3, 16, 16), torch.tensor([0, 3, 1])
    assert fold_of(Subject(net), inputs[:1], "mix") == Fold(1, 2, "embed", 1)
    ours = signed_map(AblationCAM("mix"), (net, inputs, targets, "mix"))
    theirs = naive((net, inputs, targets, "mix"), 2, rows=1)
    close(ours, torch.unflatten(theirs, 2, (4, 4)), relative=1e-9)


def test_ablation_cam_is_that_of_pytorch_grad_cam_after_a_relu() -> None:
    """It divides by s, not by |s|; after no ReLU it ablates with −1e7, not with the paper's 0."""
    case = deep("act")
    model, inputs, targets, layer = case
    ours = signed_map(AblationCAM(layer), case)
    theirs = grad_cam("AblationCAM", (copy.deepcopy(model), inputs, targets, layer)).to(F64)
    sign = Logit()(model(inputs), targets).sign().view(-1, 1, 1, 1).detach()
    assert (sign < 0).any()
    assert (sign > 0).any()
    close(ours, sign * theirs, relative=1e-5)


def test_a_score_below_zero_does_not_turn_the_map_round() -> None:
    """What is worth something to the class stays positive when all scores are lowered."""
    model, inputs, targets = Closed(), images(3, 2, 6, 7), torch.tensor([0, 3, 1])
    high, low = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        high.head.bias.add_(100)
        low.head.bias.sub_(100)
    both = [signed_map(AblationCAM("relu"), (net, inputs, targets, "")) for net in (high, low)]
    scores = [Logit()(net(inputs), targets).abs().view(-1, 1, 1, 1) for net in (high, low)]
    close(both[0] * scores[0], (both[1] * scores[1]).detach(), relative=1e-9)


def test_a_score_of_zero_leaves_the_drop() -> None:
    class Zero(Closed):
        def forward(self, inputs: Tensor) -> Tensor:
            scores = super().forward(inputs)
            return scores - level

    model, inputs, targets = Zero(), images(1, 2, 6, 7), torch.tensor([0])
    level = torch.zeros(1, 4, dtype=F64)
    plain = signed_map(AblationCAM("relu"), (model, inputs, targets, ""))
    score = model(inputs).detach()
    level = score
    ours = signed_map(AblationCAM("relu"), (model, inputs, targets, ""))
    close(ours, plain * score[0, 0].abs(), relative=1e-9)


def test_before_a_linear_head_each_channel_loses_what_grad_cam_gives_it() -> None:
    """There s is Σ_k g_k A_k and a bias: the drop of channel k is the sum of its part."""
    model, inputs, targets = Closed(), images(3, 2, 6, 7), torch.tensor([0, 3, 1])
    case: Case = (model, inputs, targets, "relu")
    hidden = model.relu(model.conv(inputs)).detach()
    drop = (
        model.head.weight[targets]
        * hidden.mean((2, 3))
        / Logit()(model(inputs), targets).abs().view(-1, 1)
    )
    close(
        signed_map(AblationCAM("relu"), case),
        torch.einsum("nk,nkhw->nhw", drop, hidden)[:, None].detach(),
        relative=1e-10,
    )


# Passes


def test_one_row_runs_below_the_layer_and_all_rows_of_many_channels_above() -> None:
    model = Deep()
    inputs, targets = images(4, 3, 11, 13), torch.tensor([0, 3, 1, 2])
    bound = bind(Subject(model), inputs, {"m": AblationCAM("second")})
    with counting(model.first) as below, counting(model.head) as above:
        explain(model, inputs, targets, bound)
    assert below.sizes == [4, 1, 1]
    assert above.sizes == [4, 3 * 4, 3 * 4]


def test_as_many_channels_as_make_no_activation_larger_than_the_models_largest() -> None:
    """first: 5 × 11 × 13 = 715 numbers of a probe, second: 180; hence 3 channels of 6 a pass."""
    largest: list[int] = []
    model, inputs, targets = deep_case(2)
    bound = bind(Subject(model), inputs, {"m": AblationCAM("second")})
    for module in model.modules():
        module.register_forward_hook(lambda m, a, output: largest.append(output.numel()))
    explain(model, inputs, targets, bound)
    assert max(largest) == 2 * 715
    assert largest.count(3 * 2 * 180) == 2  # squash; second itself ran with one row


def test_kept_channels_come_in_the_same_passes() -> None:
    model, inputs, targets = deep_case()
    bound = bind(Subject(model), inputs, {"m": AblationCAM("second", channels=4)})
    with counting(model.head) as above:
        explain(model, inputs, targets, bound)
    assert above.sizes == [5, 15, 5]


def test_a_layer_without_a_cut_runs_whole_once_per_channel() -> None:
    model, inputs, targets, _ = skips("two", past=True)
    bound = bind(Subject(model), inputs, {"m": AblationCAM("two")})
    with counting(model) as count:
        explain(model, inputs, targets, bound)
    assert count.sizes == [4] * (1 + 6)


def test_bound_methods_look_for_no_cut_again() -> None:
    model, inputs, targets = deep_case()
    bound = bind(Subject(model), inputs, {"m": AblationCAM()})
    with counting(model) as count:
        explain(model, inputs, targets, bound)
    assert count.sizes == [5, 1, 1]
    assert bound["m"] == AblationCAM("squash")
    assert repr(bound["m"]) == "AblationCAM(layer='squash', channels=None)"


def test_a_method_bound_to_one_model_leaves_the_users_own_unbound() -> None:
    method = AblationCAM("two")
    for past, cut in [(False, "two"), (True, "")]:
        case = skips("two", past)
        close(signed_map(method, case), naive(case), relative=1e-9)
        bound = method.bind(Subject(case[0]), case[1])
        assert bound.folds[0].cut == cut
    assert method.folds == ()


# What might be taken for a cut


def test_inputs_that_score_alike_prove_no_cut() -> None:
    model = Skips()
    assert fold_of(Subject(model), torch.zeros(1, 3, 8, 9, dtype=F64), "two").cut == ""


class Faint(Skips):
    """The input reaches the head past the layers, hardly."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + 1e-4 * inputs.mean((1, 2, 3))[:, None]


def test_a_faint_path_past_the_layer_is_seen() -> None:
    assert fold_of(Subject(Faint()), images(1, 3, 8, 9), "two").cut == ""


def test_memory_that_runs_out_in_the_search_is_told() -> None:
    class Tight(Deep):
        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.act(self.first(inputs))
            if len(inputs) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            scores: Tensor = self.head(self.squash(self.second(hidden)).flatten(1))
            return scores

    model = Tight()
    with pytest.raises(torch.OutOfMemoryError):
        fold_of(Subject(model), images(1, 3, 11, 13), "squash")
    assert hooks_on(model) == 0


def test_targets_are_those_of_the_probes_in_every_copy() -> None:
    """Each probe has a class of its own, and the target is not linear in the scores."""
    model, inputs, targets = deep_case(4)
    methods: dict[str, AnyMethod] = {"m": AblationCAM("squash"), "gradient": Saliency()}
    together = explain(model, inputs, targets, methods, target=Margin()).maps["m"].signed
    for row in range(4):
        alone = slice(row, row + 1)
        single = explain(model, inputs[alone], targets[alone], methods, target=Margin())
        close(together[alone], single.maps["m"].signed, relative=1e-10)
