"""Muon beside torch's own, and what it is for: more learned of the same data by each update."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wmgym.data.collect import collect
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit
from wmgym.models.muon import Muon, orthogonal

SHAPES = [(3, 16, 16), (2, 8, 24), (4, 24, 8), (1, 5, 1)]


def drawn(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_is_the_nearest_orthogonal_matrix(shape: tuple[int, ...]) -> None:
    matrix = drawn(shape)
    found = orthogonal(matrix)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    middle = left.mT @ found @ right.mT  # diagonal where the singular vectors are the same
    sizes = torch.diagonal(middle, dim1=-2, dim2=-1)
    torch.testing.assert_close(middle, torch.diag_embed(sizes), atol=1e-4, rtol=0)
    large = values > 0.05 * values.amax()
    assert (sizes[large] > 0.6).all()
    assert (sizes < 1.3).all()


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_each_member_goes_where_torchs_own_would_take_it(shape: tuple[int, ...]) -> None:
    mine = torch.nn.Parameter(drawn(shape, 1))
    theirs = [torch.nn.Parameter(member.clone()) for member in mine.detach()]
    begin = mine.detach().clone()
    ours = Muon([mine], lr=0.01)
    torchs = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.0, momentum=0.95, nesterov=True)
    for k in range(3):
        gradient = drawn(shape, 10 + k)
        mine.grad = gradient.clone()
        for parameter, of_member in zip(theirs, gradient, strict=True):
            parameter.grad = of_member.clone()
        ours.step()
        torchs.step()
    moved = (mine.detach() - begin).flatten(1)
    expected = (torch.stack([p.detach() for p in theirs]) - begin).flatten(1)
    assert torch.cosine_similarity(moved, expected).min() > 0.99  # torch multiplies in bfloat16


def test_a_step_is_as_large_as_the_learning_rate_says_whatever_the_gradient() -> None:
    for scale in (1e-6, 1.0, 1e6):
        matrix = torch.nn.Parameter(torch.zeros(2, 32, 32))
        matrix.grad = scale * drawn((2, 32, 32))
        Muon([matrix], lr=0.1).step()
        size = matrix.detach().square().mean((1, 2)).sqrt()
        assert ((size > 0.04) & (size < 0.1)).all()


def test_no_gradient_is_no_step() -> None:
    matrix = torch.nn.Parameter(torch.ones(1, 4, 4))
    Muon([matrix], lr=0.1).step()
    matrix.grad = torch.zeros(1, 4, 4)
    Muon([matrix], lr=0.1).step()
    assert matrix.detach().equal(torch.ones(1, 4, 4))


def test_a_fit_with_it_learns_more_in_as_many_updates() -> None:
    data = collect("Hopper-v5", steps=3_000, seed=0, workers=1)
    settings = {"members": 2, "width": 48, "layer_norm": False, "max_updates": 150, "eval_every": 150}

    def error(optimizer: Any) -> float:
        return float(
            fit(data, FitConfig(optimizer=optimizer, **settings)).provenance.fit["rollout_error"][-1]
        )

    assert error("Muon") < 0.9 * error("AdamW")


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="AdamW or Muon, got 'Lion'"):
        FitConfig(optimizer="Lion")  # type: ignore[arg-type]
