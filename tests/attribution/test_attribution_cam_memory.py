"""Score-CAM where memory is short: no pass has more rows than one of probes may have."""

from __future__ import annotations

import pytest
import torch
from attribution_nets import counting, deep_case
from torch import Tensor, nn

from lightning_saliency.attribution import ScoreCAM, explain


class Narrow(nn.Module):
    """A net with memory for so many rows."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most = net, most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise MemoryError("none left")
        scores: Tensor = self.net(x)
        return scores


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 32])
def test_rows_are_no_more_than_the_chunk(chunk: int) -> None:
    model, inputs, targets = deep_case()
    with counting(model) as count:
        explain(model, inputs, targets, {"m": ScoreCAM("second")}, chunk=chunk)
    assert max(count.sizes) <= chunk


@pytest.mark.parametrize("most", [1, 2, 4])
def test_the_halves_of_a_chunk_fit_where_the_whole_does_not(most: int) -> None:
    model, inputs, targets = deep_case()
    wanted = explain(model, inputs, targets, {"m": ScoreCAM("second")})
    narrow = Narrow(model, most)
    found = explain(narrow, inputs, targets, {"m": ScoreCAM("net.second")})
    assert found.chunk <= most
    torch.testing.assert_close(found.maps["m"].map, wanted.maps["m"].map)
