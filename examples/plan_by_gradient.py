"""Plan through the learned simulator by gradient, then let MuJoCo say what the plan is worth.

A physics engine gives no gradient of the return with respect to the actions; a world model does. Here 25
actions of Reacher-v5 are improved by Adam through 25 imagined steps, for several starts at once.
docs/benchmarks/gradients.md says for which tasks, and how many steps, such gradients point the right way.
"""

import argparse

import numpy as np
import torch

import wmgym
from wmgym.data.branch import branch
from wmgym.tasks.ground_truth import snapshot

STEPS = 25


def main(real_steps: int, updates: int, starts: int) -> None:
    data = wmgym.collect("Reacher-v5", steps=real_steps, seed=0)  # random actions
    config = wmgym.FitConfig(members=4, width=128, max_updates=updates)
    world = wmgym.fit(data, config, seed=0)

    env = world.task.make()
    states, snapshots = [], []
    for seed in range(starts):
        obs, _ = env.reset(seed=1_000 + seed)
        states.append(world.task.state(world.task.read_core(env, obs)[None], obs[None])[0])
        snapshots.append(snapshot(env))
    start = torch.tensor(np.array(states), dtype=torch.float32)

    plan = torch.zeros(STEPS, starts, world.task.action_dim, requires_grad=True)
    optimizer = torch.optim.Adam([plan], lr=0.05)
    for _ in range(100):
        state, total = world.init(start, torch.Generator().manual_seed(0)), torch.zeros(starts)
        for action in plan:
            outcome = world.step(state, torch.tanh(action), "mean")
            state, total = outcome.state, total + outcome.reward
        optimizer.zero_grad()
        (-total.sum()).backward()
        optimizer.step()

    actions = torch.tanh(plan).detach().numpy().astype(np.float32)
    real = [branch(world.task, at, actions[:, i], env).returns[0] for i, at in enumerate(snapshots)]
    still = [branch(world.task, at, 0 * actions[:, i], env).returns[0] for i, at in enumerate(snapshots)]
    env.close()
    print(f"imagined return of the plans: {total.mean().item():.2f}")
    print(f"real return of the plans:     {np.mean(real):.2f}")
    print(f"real return of no action:     {np.mean(still):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real-steps", type=int, default=5_000)
    parser.add_argument("--updates", type=int, default=1_500)
    parser.add_argument("--starts", type=int, default=8)
    options = parser.parse_args()
    main(options.real_steps, options.updates, options.starts)
