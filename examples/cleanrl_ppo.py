"""PPO in one file, after CleanRL, on a Gymnasium vector env: ``gym.make_vec`` and nothing else of wmgym."""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Normal

import wmgym  # noqa: F401  (registers the ids)

ENVS, STEPS, GAMMA, LAMBDA = 64, 32, 0.99, 0.95


def mlp(n: int, m: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, m))


def main(env_id: str, updates: int) -> None:
    torch.manual_seed(0)
    made = gym.make_vec(f"wmgym/{env_id}", num_envs=ENVS, autoreset_mode="SameStep")
    env = gym.wrappers.vector.RecordEpisodeStatistics(made)
    (size,), (dim,) = env.single_observation_space.shape, env.single_action_space.shape
    actor, critic, log_std = mlp(size, dim), mlp(size, 1), nn.Parameter(torch.full((dim,), -0.5))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters(), log_std], lr=1e-3)
    obs = torch.tensor(env.reset(seed=0)[0], dtype=torch.float32)
    for _ in range(updates):
        rows = []
        for _ in range(STEPS):
            with torch.no_grad():
                action = (policy := Normal(actor(obs), log_std.exp())).sample()
                after, reward, terminated, truncated, info = env.step(action.numpy())
                last, ends = after.copy(), terminated | truncated
                last[ends] = [*info["final_obs"][ends]] if ends.any() else last[ends]
                ahead = critic(torch.tensor(last, dtype=torch.float32))[:, 0]
                facts = [torch.tensor(x).float() for x in (reward, terminated, ends)]
                rows.append((obs, action, policy.log_prob(action).sum(1), critic(obs)[:, 0], ahead, *facts))
            obs = torch.tensor(after, dtype=torch.float32)
        s, a, old, value, ahead, reward, failed, ended = map(torch.stack, zip(*rows, strict=True))
        delta, gain = reward + GAMMA * (1 - failed) * ahead - value, torch.zeros(STEPS + 1, ENVS)
        for t in reversed(range(STEPS)):
            gain[t] = delta[t] + GAMMA * LAMBDA * (1 - ended[t]) * gain[t + 1]
        s, a, old, target, gain = (x.flatten(0, 1) for x in (s, a, old, value + gain[:-1], gain[:-1]))
        gain = (gain - gain.mean()) / gain.std()
        for rows in (part for _ in range(8) for part in torch.randperm(len(s)).split(512)):
            ratio = (Normal(actor(s[rows]), log_std.exp()).log_prob(a[rows]).sum(1) - old[rows]).exp()
            error = (critic(s[rows])[:, 0] - target[rows]).square().mean()
            loss = 0.5 * error - torch.minimum(ratio * gain[rows], ratio.clamp(0.8, 1.2) * gain[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"imagined return: {np.mean(env.return_queue):.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="InvertedPendulum-v5")
    parser.add_argument("--updates", type=int, default=80)
    main(*vars(parser.parse_args()).values())
