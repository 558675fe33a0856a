"""Drift: two observations of the same probe -> how far its map moved, 0 = same.

Every function takes (N, ...) twice, in one shape, and gives (N,): exactly 0 for equal defined
inputs, NaN for a probe that is undefined in either observation. `cosine` reads the signed
attribution with all channels and is undefined where that is all zero or not finite. The others
read maps (N, *spatial) and are undefined where one is constant or not finite; all but `pearson`
and `spearman` take a map's absolute value first. A scale per probe changes no result.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.numeric import (
    centred,
    centred_ranks,
    defined,
    directional_distance,
    distribution,
    flat,
    nan_unless,
    require_same_shape,
    scaled,
    top_weights,
)
from lightning_saliency.measures.shape import centroid

BLUR = 5  # pixels: the side of the box of `blurred`
SSIM_RADIUS, SSIM_SIGMA, SSIM_C1, SSIM_C2 = 5, 1.5, 0.01**2, 0.03**2  # Wang et al. 2004, range 1


def cosine(now: Tensor, then: Tensor) -> Tensor:
    """1 − cosine of the signed attributions, 0 to 2: 0 same direction, 1 unrelated, 2 reversed."""
    require_same_shape(now, then)
    return directional_distance(flat(now), flat(then))


def blurred(now: Tensor, then: Tensor) -> Tensor:
    """1 − cosine of 5-pixel box-blurred magnitudes, 0 to 1: 0 same, also small after a 1 px move.

    The box is cut at the border and averages what is left of it.
    """
    both = _defined_pair(now, then)
    return nan_unless(both, directional_distance(_box_blur(now), _box_blur(then)))


def _box_blur(maps: Tensor) -> Tensor:
    images = scaled(flat(maps).abs()).view(maps.shape)
    # Side after side, since avg_pool3d refuses a volume that is thinner than the box.
    for dim in range(1, _spatial_dims(maps) + 1):
        lines = images.movedim(dim, -1)
        rows = lines.reshape(lines.shape[:-1].numel(), 1, lines.shape[-1])
        means = F.avg_pool1d(rows, BLUR, 1, BLUR // 2, count_include_pad=False)
        images = means.view(lines.shape).movedim(-1, dim)
    return images.flatten(1)


def jensen_shannon(now: Tensor, then: Tensor) -> Tensor:
    """√ of the base-2 Jensen–Shannon divergence of the magnitudes, 0 to 1: 0 same, 1 disjoint.

    Lin 1991; the root is a metric (Endres & Schindelin 2003). With m = (p + q)/2 and
    d = (p − q)/(p + q), JSD = ½ Σ m [ln(1 − d²) + 2 d artanh d]: no term is negative and none
    cancels, so float32 holds 1e-7 where the sum of p log(p/m) is lost below 1e-4.
    """
    both = _defined_pair(now, then)
    p, q = distribution(now), distribution(then)
    total = p + q
    d = (p - q) / total  # NaN where both are 0: takes the limit below, and weighs nothing
    inner = torch.where(d.abs() < 1, torch.log1p(-d.square()) + 2 * d * d.atanh(), math.log(4))
    divergence = (total * inner).sum(1) / (4 * math.log(2))
    return nan_unless(both, divergence.clamp(max=1).sqrt())


def pearson(now: Tensor, then: Tensor) -> Tensor:
    """1 − Pearson correlation over pixels, 0 to 2: 0 same, 1 unrelated, 2 reversed.

    Signs are kept: on signed maps this is another quantity than on magnitudes.
    """
    both = _defined_pair(now, then)
    return nan_unless(both, directional_distance(centred(flat(now)), centred(flat(then))))


def spearman(now: Tensor, then: Tensor) -> Tensor:
    """1 − Spearman rank correlation over pixels, 0 to 2: 0 same order, 1 unrelated, 2 reversed.

    Ties take their mean rank; signs are kept, as in `pearson`.
    """
    both = _defined_pair(now, then)
    ranks = centred_ranks(flat(now)), centred_ranks(flat(then))
    return nan_unless(both, directional_distance(*ranks))


def ssim(now: Tensor, then: Tensor) -> Tensor:
    """1 − structural similarity (SSIM) of the magnitudes, 0 to 2: 0 same.

    Wang et al. 2004: Gaussian window of 11 pixels and σ 1.5, reflected at the border; along a side
    shorter than that, both shrink in proportion to the longest odd window that fits. Each map is
    divided by the 99th percentile of its positive values and clipped at 1, so one hot pixel does
    not flatten the rest, and its mean is subtracted.
    """
    both = _defined_pair(now, then)
    x, y = _ssim_image(now), _ssim_image(then)
    # Not torchmetrics: its convolutions round to TensorFloat-32 on a GPU, and it knows no 1-D maps.
    moments = _gaussian_blur(torch.cat((x, y, x * x, y * y, x * y)))
    mean_x, mean_y, xx, yy, xy = moments.chunk(5)
    # Unclamped: for equal maps every factor above equals the one below, to the last bit.
    variances = (xx - mean_x * mean_x) + (yy - mean_y * mean_y)
    covariance = xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return nan_unless(both, (1 - luminance * structure).flatten(1).mean(1))


def _ssim_image(maps: Tensor) -> Tensor:
    rows = flat(maps).abs()
    top = rows.topk(rows.shape[1] // 100 + 1, dim=1).values
    percentile = top.gather(1, (rows > 0).sum(1, keepdim=True) // 100)
    rows = (rows / percentile).clamp(max=1)
    return (rows - rows.mean(1, keepdim=True)).view(maps.shape)


def _gaussian_blur(images: Tensor) -> Tensor:
    """Blur (M, *spatial) along each side in turn; the window never exceeds the side."""
    _spatial_dims(images)
    radii = [min(SSIM_RADIUS, (side - 1) // 2) for side in images.shape[1:]]
    padding = [radius for radius in reversed(radii) for _ in range(2)]
    images = F.pad(images[:, None], padding, mode="reflect")[:, 0]
    for dim, radius in enumerate(radii, start=1):
        taps = _gaussian_taps(radius)
        side = images.shape[dim] - 2 * radius
        blurred_images = images.narrow(dim, 0, side) * taps[0]
        for start, tap in enumerate(taps[1:], start=1):
            blurred_images.add_(images.narrow(dim, start, side), alpha=tap)
        images = blurred_images
    return images


def _gaussian_taps(radius: int) -> list[float]:
    sigma = SSIM_SIGMA * max(radius, 1) / SSIM_RADIUS
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    return [tap / sum(taps) for tap in taps]


def top_k_iou(now: Tensor, then: Tensor, share: float = 0.05) -> Tensor:
    """1 − intersection over union of the top 5 % pixels, 0 to 1: 0 same pixels, 1 none shared.

    k = `share` of all pixels, at least 1, at most the support of each map. Pixels tied at the last
    place count in part, and the ratio is Σ min / Σ max of these weights.
    """
    both = _defined_pair(now, then)
    tops = []
    for rows in (flat(now).abs(), flat(then).abs()):
        most = max(1, round(share * rows.shape[1]))
        k = torch.full((rows.shape[0], 1), most, device=rows.device)
        tops.append(top_weights(rows, k, most))
    union = torch.maximum(*tops).sum(1)
    return nan_unless(both, 1 - torch.minimum(*tops).sum(1) / union)


def centroid_shift(now: Tensor, then: Tensor) -> Tensor:
    """Distance between the centres of mass, in pixels of the map, 0 to its diagonal: 0 same."""
    require_same_shape(now, then)
    return (centroid(now) - centroid(then)).square().sum(1).sqrt()


def _defined_pair(now: Tensor, then: Tensor) -> Tensor:
    require_same_shape(now, then)
    return defined(now) & defined(then)


def _spatial_dims(maps: Tensor) -> int:
    dims = maps.ndim - 1
    if dims not in (1, 2, 3):
        raise ConfigurationError(
            f"maps of shape {tuple(maps.shape)}: expected (N, *spatial) with 1, 2 or 3 spatial "
            "dimensions; reduce the channels first."
        )
    return dims
