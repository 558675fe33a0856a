"""Every method beside what else computes it: libraries, and the papers' equations in loops.

``python tests/attribution/references.py`` writes the table: method, reference, the largest relative
difference max|ours − theirs| / max|theirs| in float64, and why where they differ on purpose.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script, what tests share lies above

import attribution_peers as peers
import attribution_peers_forward as forward
import test_attribution_backprop as backprop
import test_attribution_cam_ablation as ablation
import test_attribution_cams as cams
import test_attribution_deeplift as deeplift
import test_attribution_fullgrad as fullgrad
import test_attribution_views as views
import torch
import torchcam.methods
from attribution_peers import captums, deep, map_of, signed, zennits
from test_attribution_parity import Case, evidence, grad_cam, naive_cam, scaled, torch_cam
from torch import Tensor

from lightning_saliency import attribution as our
from lightning_saliency.attribution import Method

Numbers = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    """A method and a reference.

    Attributes:
        method: its name in `METHODS`.
        reference: whose numbers `theirs` are.
        ours: of the method.
        theirs: of the reference.
        reason: why they differ on purpose; empty where they agree.
        undone: ours with the reason undone, which must agree with `theirs`.
    """

    method: str
    reference: str
    ours: Numbers
    theirs: Numbers
    reason: str = ""
    undone: Numbers | None = None

    def difference(self, *, undone: bool = False) -> float:
        """The largest relative difference; infinite where shapes differ or a number is none."""
        numbers = self.undone if undone else self.ours
        assert numbers is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peers
            ours, theirs = numbers().detach(), self.theirs().detach()
        if ours.shape != theirs.shape or not theirs.any():
            return float("inf")
        worst = float((ours - theirs).abs().max() / theirs.abs().max())
        return worst if worst == worst else float("inf")


def of_gradients() -> Iterator[Row]:
    """The gradient, its averages, and paths of gradients."""
    raw = partial(captums, "Saliency", abs=False)
    yield Row("saliency", "captum", lambda: signed(our.Saliency()), raw)
    yield Row("saliency", "zennit", lambda: signed(our.Saliency()), lambda: zennits("Gradient"))
    for how in ("signed", "positive"):
        ours = partial(map_of, our.METHODS[f"{how}_gradient"]())
        by_hand = partial(peers.reduced, how)
        yield Row(f"{how}_gradient", "captum, channels reduced by hand", ours, by_hand)
    product = partial(captums, "InputXGradient")
    yield Row("input_x_gradient", "captum", lambda: signed(our.InputXGradient()), product)

    smooth = partial(signed, our.SmoothGrad(**peers.NOISE))
    variance = partial(signed, our.VarGrad(**peers.NOISE))
    tunnel = "captum NoiseTunnel, our noise"
    yield Row("smooth_grad", tunnel, smooth, lambda: peers.noise_tunnel("smoothgrad"))
    yield Row(
        "smooth_grad",
        "zennit, our noise",
        smooth,
        peers.zennits_smooth_grad,
        "its last copy has no noise",
        peers.smooth_grad_with_a_clean_copy,
    )
    yield Row(
        "smooth_grad_squared",
        tunnel,
        lambda: signed(our.SmoothGradSquared(**peers.NOISE)),
        lambda: peers.noise_tunnel("smoothgrad_sq"),
    )
    yield Row(
        "var_grad",
        "captum's gradients, torch.var",
        variance,
        lambda: peers.moment(lambda gradients: gradients.var(0)),
    )
    yield Row(
        "var_grad",
        tunnel,
        variance,
        lambda: peers.noise_tunnel("vargrad"),
        "it divides by n, not by n − 1",
        lambda: variance() * 4 / 5,
    )
    yield from of_paths()


def of_paths() -> Iterator[Row]:
    """Sums of gradients on the way from a baseline."""
    straight = partial(signed, our.IntegratedGradients(steps=6, baseline=-0.4))
    yield Row("integrated_gradients", "captum, midpoints", straight, peers.path)
    yield Row(
        "integrated_gradients",
        "zennit",
        straight,
        peers.zennits_path,
        "it takes the gradient at the end of each step, not in its middle",
        peers.at_the_ends_of_the_steps,
    )
    shap = partial(signed, peers.SHAP)
    yield Row("gradient_shap", "captum, our points", shap, peers.expected_gradients)
    blur = our.BlurIG(steps=6, max_sigma=5.0)
    yield Row("blur_ig", "its equation, scipy's blur", lambda: signed(blur), peers.out_of_blur)
    guided = partial(signed, peers.GUIDED)
    yield Row("guided_ig", "its authors' way, mean of ends", guided, peers.guided_ig_of_ends)
    yield Row(
        "guided_ig",
        "its authors' sum",
        guided,
        peers.guided_ig_of_starts,
        "it takes the gradient at the start of each step, not the mean of its ends",
        peers.our_way_with_the_gradient_at_its_starts,
    )
    case: Case = (views.Anywhere(3, 2), deep()[1], torch.tensor([0, 2, 1]), "")
    yield Row(
        "ten_view",
        "crops and mirror images by hand",
        lambda: map_of(our.TenView(), case),
        lambda: views.by_hand(*case[:3], 0.875, True)[0],
    )


def of_rules() -> Iterator[Row]:
    """What goes back through the net by another rule."""
    functional = (backprop.Perceptron(torch.relu), backprop.X, backprop.Y, "")
    methods: dict[str, tuple[Method, str, str]] = {
        "guided_backprop": (our.GuidedBackprop(), "GuidedBackprop", "GuidedBackprop"),
        "deconvnet": (our.DeconvNet(), "Deconvolution", "DeconvNet"),
    }
    for name, (method, captum, zennit) in methods.items():
        ours = partial(signed, method)
        yield Row(name, "captum", ours, partial(captums, captum))
        yield Row(name, "zennit", ours, partial(zennits, "Gradient", zennit))
        short = "guided" if name == "guided_backprop" else "deconv"
        yield Row(
            name,
            "the paper's rule in loops",
            partial(signed, method, functional),
            partial(backprop.by_hand, short, *functional[:3]),
        )
        yield Row(
            name,
            "captum, functional ReLU",
            partial(signed, method, functional),
            partial(captums, captum, functional),
            "it hooks modules: of functions it takes the plain gradient, without a word",
            lambda: signed(our.Saliency(), functional),
        )
    yield Row(
        "guided_backprop",
        "pytorch-grad-cam",
        lambda: signed(our.GuidedBackprop()),
        peers.guided_by_grad_cam,
    )
    conv: Case = (
        deeplift.convolutional(torch.nn.ReLU, torch.nn.MaxPool2d(2)),
        deeplift.IMAGES,
        deeplift.CLASSES,
        "",
    )
    yield Row(
        "deep_lift",
        "captum",
        lambda: signed(our.DeepLIFT(baseline=-0.6), conv),
        lambda: deeplift.captums(*conv[:3], -0.6)[0],
    )
    yield Row(
        "deep_lift",
        "captum, functional ReLU",
        lambda: signed(our.DeepLIFT(baseline=0.3), functional),
        lambda: deeplift.captums(*functional[:3], 0.3)[0],
        "it hooks modules: functions are differentiated, without a word",
        lambda: signed(our.Saliency(), functional) * (functional[1] - 0.3),
    )
    yield from of_biases()


def of_biases() -> Iterator[Row]:
    """FullGrad."""
    normalised: Case = (*fullgrad.case("normalised"), "")
    yield Row(
        "full_grad",
        "its equation in loops",
        lambda: map_of(our.FullGrad(), normalised),
        lambda: fullgrad.in_loops(*normalised[:3], "layer")[0],
    )
    model, inputs, targets = fullgrad.case("closed")
    large: Case = (fullgrad.Large(model), inputs, targets, "")  # its ε does not count then
    yield Row(
        "full_grad",
        'pytorch-grad-cam, `rescale="channel"`',
        lambda: map_of(our.FullGrad(rescale="channel"), large),
        lambda: fullgrad.grad_cams(*large[:3]).double(),
    )


GRADIENT_CAMS: dict[str, tuple[Method, str]] = {
    "grad_cam": (our.GradCAM("second"), "GradCAM"),
    "grad_cam_plus_plus": (our.GradCAMPlusPlus("second"), "GradCAMPlusPlus"),
    "hires_cam": (our.HiResCAM("second"), "HiResCAM"),
    "layer_cam": (our.LayerCAM("second"), "LayerCAM"),
}


def of_cams() -> Iterator[Row]:
    """Class activation maps by gradients."""
    large = scaled(deep())  # pytorch-grad-cam's ε does not count then
    for name, (method, theirs) in GRADIENT_CAMS.items():
        equation = partial(naive_cam, theirs, deep())
        yield Row(name, "its equation in loops", partial(signed, method), equation)
        above = type(method)("model.second")  # type: ignore[call-arg]
        ours = partial(signed, above, large)
        yield Row(name, "pytorch-grad-cam", ours, partial(grad_cam, theirs, large))
    grad, plus, layer = (
        partial(map_of, GRADIENT_CAMS[name][0])
        for name in ("grad_cam", "grad_cam_plus_plus", "layer_cam")
    )
    yield Row("grad_cam", "captum", lambda: signed(our.GradCAM("second")), peers.layer_grad_cam)
    yield Row("grad_cam", "torchcam", grad, lambda: torch_cam("GradCAM", deep()))
    yield Row("layer_cam", "torchcam", layer, lambda: torch_cam("LayerCAM", deep()))
    yield Row(
        "grad_cam_plus_plus",
        "torchcam",
        plus,
        lambda: torch_cam("GradCAMpp", deep()),
        "it divides a copy: its weights are Σ g² ReLU(g), without the denominator of eq. 19",
        peers.without_the_denominator,
    )
    x = partial(signed, our.XGradCAM("second"))
    yield Row("xgrad_cam", "pytorch-grad-cam", x, lambda: grad_cam("XGradCAM", deep()).double())
    yield Row(
        "xgrad_cam",
        "torchcam",
        lambda: map_of(our.XGradCAM("second")),
        lambda: torch_cam("XGradCAM", deep()),
    )


def of_forward_cams() -> Iterator[Row]:
    """Class activation maps without a gradient."""
    flat = deep("act")
    eigen = partial(signed, our.EigenCAM("act"))
    yield Row(
        "eigen_cam",
        "numpy's singular value decomposition",
        eigen,
        lambda: peers.turned(cams.by_svd(evidence(flat)[0])[:, None], eigen()),
    )
    yield Row(
        "eigen_cam",
        "pytorch-grad-cam",
        eigen,
        lambda: peers.turned(grad_cam("EigenCAM", flat).double(), eigen()),
        "it takes each channel's mean away first, the paper does not",
        lambda: peers.turned(peers.centred_projection(), eigen()),
    )
    score = our.ScoreCAM("act")
    theirs = partial(grad_cam, "ScoreCAM", flat)
    yield Row("score_cam", "pytorch-grad-cam", lambda: signed(score), lambda: theirs().double())
    above = partial(torch_cam, "ScoreCAM", flat)
    yield Row("score_cam", "torchcam", lambda: map_of(score), above)
    yield Row(
        "score_cam",
        "algorithm 1, channel by channel",
        lambda: signed(our.ScoreCAM("second")),
        lambda: cams.naive_score_cam(deep()),
    )
    ablated = partial(signed, our.AblationCAM("act"))
    yield Row("ablation_cam", "its definition, a pass each", ablated, lambda: ablation.naive(flat))
    yield Row(
        "ablation_cam",
        "pytorch-grad-cam",
        ablated,
        lambda: grad_cam("AblationCAM", deep("act")).double(),
        "it divides by the score, not by its absolute value",
        lambda: ablated() * peers.sign_of_the_score(),
    )


def of_attention() -> Iterator[Row]:
    """Transformers; what they attend to is read from the library itself."""
    for name in forward.VITS:
        for method, kind, theirs in [
            ("attention_rollout", our.AttentionRollout(), forward.rolled_out),
            ("gradient_rollout", our.GradientRollout(), forward.chefer),
            ("layer_gradient_attention", our.LayerGradientAttention(), forward.positive_gradients),
        ]:
            reference = f"its equation, weights read from {name}"
            yield Row(
                method, reference, partial(forward.of_tokens, kind, name), partial(theirs, name)
            )
    if not hasattr(torchcam.methods, "LeGrad"):
        return  # from 0.5 on
    yield Row(
        "layer_gradient_attention",
        "torchcam LeGrad, one block",
        lambda: forward.layer_gradients(1),
        lambda: forward.le_grad(1),
    )
    yield Row(
        "layer_gradient_attention",
        "torchcam LeGrad, three blocks",
        lambda: forward.layer_gradients(3),
        lambda: forward.le_grad(3),
        "it reads a score off every block, we differentiate the model's own",
        lambda: forward.gradients_of_each_blocks_score(3),
    )


def of_perturbations() -> Iterator[Row]:
    """What hides parts of the input."""
    whole = our.Occlusion(window=3, stride=2)
    cut = our.Occlusion(window=4, stride=4)
    yield Row("occlusion", "captum", lambda: map_of(whole), lambda: forward.captums_occlusion(3, 2))
    yield Row(
        "occlusion",
        "captum, windows over the border",
        lambda: map_of(cut),
        lambda: forward.captums_occlusion(4, 4),
        "its windows are cut by the border, ours are moved in",
        lambda: forward.captums_occlusion(4, 4, cut=True),
    )
    yield Row(
        "occlusion",
        "zennit",
        lambda: map_of(our.Occlusion(window=(11, 1))),
        lambda: peers.zennits_occlusion((11, 1)),
        "it shows the score that is left, not its fall",
        forward.score_less_the_fall,
    )
    rise = partial(map_of, our.RISE(masks=30, cells=4, seed=2))
    yield Row("rise", "masks by numpy, weighted by scores", rise, forward.rise_by_masks)
    yield Row(
        "rise",
        "eq. 6 of the paper",
        rise,
        forward.rise_of_the_paper,
        "we divide by the masks' own sum and take the mean score away",
        forward.rise_with_its_mean,
    )
    shap = partial(map_of, our.KernelSHAP(samples=14, cells=2, baseline=0.3))
    yield Row("kernel_shap", "captum ShapleyValues", shap, forward.shapley_by_captum)
    yield Row("kernel_shap", "Shapley's formula over all subsets", shap, forward.shapley_by_hand)
    lime = partial(map_of, forward.NEAR)
    yield Row("lime", "scikit-learn Ridge", lime, forward.lime_by_scikit_learn)
    yield Row("lime", "captum, our coalitions and distance", lime, forward.lime_by_captum)


ROWS: list[Row] = [
    *of_gradients(),
    *of_rules(),
    *of_cams(),
    *of_forward_cams(),
    *of_attention(),
    *of_perturbations(),
]


def table() -> str:
    """All rows as Markdown."""
    lines = ["| method | reference | largest relative difference | where it is on purpose |"]
    lines += ["|---|---|---|---|"]
    for row in ROWS:
        why = f"{row.reason}; undone, {row.difference(undone=True):.0e}" if row.reason else ""
        lines.append(f"| `{row.method}` | {row.reference} | {row.difference():.0e} | {why} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
