"""Episodes whose tensors stay on the device: the code path, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests import toy
from wmgym.envs.recorded_step import Watch
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.dynamics import Prediction

STEPS = 12


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's tensors say that they are of another device, and may not be read by the host."""
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda tensor: False), raising=False)


def forbid(patch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a step read numbers back from the device")

    for name in ("numpy", "cpu", "item", "tolist", "__bool__", "__int__", "__float__"):
        patch.setattr(torch.Tensor, name, refuse, raising=False)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "Reacher-v5"])
def test_a_step_stays_on_the_device_and_is_the_same(
    env_id: str, on_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as here:
        here.delattr(torch.Tensor, "is_cpu")
        env = ImaginedVectorEnv(env_id, 24)
        width = env.single_action_space.shape
        actions = torch.rand(STEPS, 24, *width, generator=torch.Generator().manual_seed(1)) * 2 - 1
        near = env.to_torch()
        first = near.reset(seed=5)
        usual = [near.step(action) for action in actions]
    away = ImaginedVectorEnv(env_id, 24).to_torch()
    torch.testing.assert_close(away.reset(seed=5), first, rtol=0, atol=0)
    for k, action in enumerate(actions):
        with monkeypatch.context() as there:
            if k:  # the first packs the rows by member
                forbid(there)
            outcome = away.step(action)
        torch.testing.assert_close(outcome.obs, usual[k].obs, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(outcome.reward, usual[k].reward, rtol=2e-3, atol=2e-3)
        assert torch.equal(outcome.terminated, usual[k].terminated)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Humanoid-v5"])
def test_it_is_the_vector_env(env_id: str) -> None:
    env = ImaginedVectorEnv(env_id, 16, propagation="mean", max_episode_steps=1_000)
    episodes = env.to_torch()
    obs = episodes.reset(seed=0)
    state = episodes._state
    assert state is not None
    seen, _ = env.reset(seed=0, options={"state": state.full.numpy()})
    np.testing.assert_allclose(obs, seen, rtol=1e-6)
    for action in np.random.default_rng(0).uniform(-0.4, 0.4, (5, *env.action_space.shape)):  # type: ignore[misc]
        outcome = episodes.step(torch.tensor(action))
        _, reward, terminated, truncated, infos = env.step(action.astype(np.float32))
        np.testing.assert_allclose(outcome.reward, reward, rtol=1e-5, atol=1e-5)
        assert (outcome.terminated.numpy() == terminated).all()
        assert (outcome.truncated.numpy() == truncated).all()
        assert (outcome.diverged.numpy() == infos["diverged"]).all()


def test_ended_episodes_begin_anew_and_keep_their_members() -> None:
    episodes = ImaginedVectorEnv("Ant-v5", 10, max_episode_steps=3).to_torch()
    episodes.reset(seed=0)
    state = episodes._state
    assert state is not None
    still = torch.zeros(10, 8)
    outcomes = [episodes.step(still) for _ in range(7)]
    ends = [int((each.terminated | each.truncated).sum()) for each in outcomes]
    assert ends == [0, 0, 10, 0, 0, 10, 0]
    after = episodes._state
    assert after is not None
    assert after.member is state.member
    assert not torch.equal(outcomes[2].obs, outcomes[2].final_obs)
    assert torch.equal(outcomes[1].obs, outcomes[1].final_obs)
    again = ImaginedVectorEnv("Ant-v5", 10, max_episode_steps=3).to_torch()
    again.reset(seed=0)
    for each in outcomes:
        assert torch.equal(again.step(still).obs, each.obs)


def test_memory_of_ended_episodes_is_cleared() -> None:
    class Counting(toy.LinearGaussian):
        def predict_assigned(self, core: Any, action: Any, member: Any, carry: Any = None) -> Prediction:
            age = torch.zeros(len(core), 1) if carry is None else carry
            return replace(super().predict_assigned(core, action, member), carry=age + 1)

    episodes = ImaginedVectorEnv(toy.world(Counting()), 4, max_episode_steps=2).to_torch()
    episodes.reset(seed=0)
    ages = []
    for _ in range(3):
        episodes.step(torch.zeros(4, 2))
        assert episodes._state is not None
        ages.append(episodes._state.carry)
    for age, expected in zip(ages, (1, 0, 1), strict=True):
        assert torch.equal(torch.as_tensor(age), torch.full((4, 1), float(expected)))


def recorded(episodes: Any) -> Any:
    """What ``record`` is on a CUDA device, done by the CPU: the work fills the same tensors each time."""

    def record(work: Any, generator: torch.Generator) -> Any:
        draws, kept = generator.get_state(), [each.clone() for each in episodes._moving()]
        static = work()
        generator.set_state(draws)
        for held, before in zip(episodes._moving(), kept, strict=True):
            held.copy_(before)

        def replay() -> None:
            again = work()
            for name, tensor in vars(static).items():
                tensor.copy_(getattr(again, name))

        return static, replay

    return record


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Ant-v5", "Reacher-v5"])
def test_a_recorded_step_is_the_same(env_id: str, on_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, replayed = (ImaginedVectorEnv(env_id, 8, max_episode_steps=6).to_torch() for _ in range(2))
    monkeypatch.setattr(type(replayed), "recordable", property(lambda self: self is replayed))
    monkeypatch.setattr("wmgym.envs.torch_episodes.record", recorded(replayed))
    width = usual.world.task.action_space.shape
    for seed in (0, 1):  # a reset deals other members, so it has to be recorded anew
        torch.testing.assert_close(usual.reset(seed=seed), replayed.reset(seed=seed), rtol=0, atol=0)
        before = None
        for k in range(STEPS):
            action = torch.rand(8, *width, generator=torch.Generator().manual_seed(k)) * 2 - 1
            one, other = usual.step(action), replayed.step(action)
            for name, tensor in vars(one).items():
                torch.testing.assert_close(getattr(other, name), tensor, rtol=0, atol=0)
            assert (replayed._replay is not None) == (k >= 2)
            if before is not None:  # what was returned is not overwritten by later steps
                assert torch.equal(before[0], before[1])
            before = other.obs, other.obs.clone()


def test_what_no_graph_can_hold_is_found() -> None:
    rows = torch.arange(6.0)
    constant = torch.ones(6)
    with Watch() as watch:
        made = rows * constant + 1
        made[:2].exp()
    assert not watch.waits
    assert {id(each) for each in watch.read.values()} == {id(rows), id(constant)}
    for work in (lambda: rows[rows > 2], lambda: float(rows.sum()), lambda: (rows > 2).nonzero()):
        with Watch() as watch:
            work()
        assert watch.waits
    for work in (lambda: rows.to("meta"), lambda: torch.empty(6, device="meta").copy_(rows)):
        with Watch() as watch:
            work()
        assert watch.waits


def test_what_does_not_go_is_refused() -> None:
    for keywords in ({"trust": True}, {"render_mode": "rgb_array"}):
        with pytest.raises(ValueError, match="to_torch"):
            ImaginedVectorEnv("Hopper-v5", 2, **keywords).to_torch()  # type: ignore[arg-type]
    episodes = ImaginedVectorEnv("Hopper-v5", 2).to_torch()
    with pytest.raises(gym.error.ResetNeeded):
        episodes.step(torch.zeros(2, 3))
    episodes.reset()
    with pytest.raises(ValueError, match="need"):
        episodes.step(torch.zeros(2, 4))
