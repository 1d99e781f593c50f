"""What a CUDA device computes; left out where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.config import FitConfig

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALL = FitConfig(members=3, width=32, depth=2, max_updates=200, eval_every=100)


@on_cuda
@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"])
def test_recorded_steps_are_those_launched_one_by_one(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, replayed = (ImaginedVectorEnv(env_id, 64, device="cuda").to_torch() for _ in range(2))
    monkeypatch.setattr(type(usual), "recordable", property(lambda self: self is replayed))
    for seed in (0, 1):
        torch.testing.assert_close(usual.reset(seed=seed), replayed.reset(seed=seed), rtol=0, atol=0)
        for _ in range(20):
            action = torch.rand(64, *usual.world.task.action_space.shape, device="cuda") * 2 - 1  # type: ignore[misc]
            one, other = usual.step(action), replayed.step(action)
            torch.testing.assert_close(other.obs, one.obs, rtol=1e-4, atol=1e-4)
            assert torch.equal(other.terminated, one.terminated)
        assert replayed._replay is not None
        assert usual._replay is None


@on_cuda
@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Ant-v5", "Reacher-v5"])
def test_it_steps_as_the_cpu_does(env_id: str) -> None:
    here = ImaginedVectorEnv(env_id, 32, propagation="mean", max_episode_steps=1_000)
    there = ImaginedVectorEnv(
        env_id, 32, propagation="mean", max_episode_steps=1_000, device="cuda"
    ).to_torch()
    there.reset(seed=0)
    assert there._state is not None
    here.reset(seed=0, options={"state": there._state.full.cpu().numpy()})
    for action in np.random.default_rng(0).uniform(-0.4, 0.4, (8, *here.action_space.shape)):  # type: ignore[misc]
        obs, reward, terminated, _, _ = here.step(action.astype(np.float32))
        outcome = there.step(torch.tensor(action, device="cuda"))
        np.testing.assert_allclose(outcome.obs.cpu(), obs, rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(outcome.reward.cpu(), reward, rtol=1e-2, atol=1e-2)
        assert (outcome.terminated.cpu().numpy() == terminated).all()


@on_cuda
def test_a_reward_that_reads_the_host_is_stepped_all_the_same() -> None:
    def reward(state: Any, action: Any, after: Any, unobserved: Any) -> Any:
        return after[:, 0] * torch.tensor([2.0], device=after.device)[0] + float(after.sum()) * 0

    world = wmgym.load("HalfCheetah-v5")
    world = replace(world, task=replace(world.task, reward=reward, from_table=False))
    episodes = ImaginedVectorEnv(world, 8, device="cuda").to_torch()
    episodes.reset(seed=0)
    for _ in range(5):
        assert episodes.step(torch.zeros(8, 6, device="cuda")).reward.isfinite().all()
    assert episodes._replay is None


@on_cuda
@pytest.mark.parametrize("optimizer", ["AdamW", "Muon"])
def test_a_fit_there_is_as_good_and_comes_out_on_the_cpu(optimizer: Any) -> None:
    data = wmgym.collect("InvertedDoublePendulum-v5", steps=2_000, seed=0)
    config = replace(SMALL, optimizer=optimizer, finetune_updates=20, finetune_steps=4)
    here, there = (wmgym.fit(data, replace(config, device=device)) for device in ("cpu", "cuda"))
    assert there.device.type == "cpu"
    errors = [min(world.provenance.fit["rollout_error"]) for world in (here, there)]
    assert errors[1] < 1.3 * errors[0]
    wmgym.fit(wmgym.collect("Ant-v5", steps=1_000, seed=0), replace(config, device="cuda", max_updates=100))
    twin = wmgym.distill(
        there, data, width=32, depth=2, members=2, imagined_steps=2_000, config=replace(SMALL, device="cuda")
    )
    assert twin.device.type == "cpu"


@pytest.mark.parametrize("device", ["nowhere", "cuda:77", "xpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="cannot be used here") as refused:
        FitConfig(device=device)
    assert "\n" not in str(refused.value)
