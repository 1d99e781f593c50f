"""From 5,000 steps of one's own robot to a calibrated world that is scored, drawn, and made by its id.

cd examples/own_robot && python learn.py
"""

import gymnasium as gym
import numpy as np
from push_bot import chase

import wmgym

STEPS = 5_000


def main(steps: int = STEPS, config: wmgym.FitConfig | None = None) -> wmgym.GapReport:
    """Collect, fit, calibrate, score, register; writes the world and a picture beside this file."""
    data = wmgym.collect("push_bot:lab/PushBot-v0", {"random": None, "chase": chase}, steps=steps, noise=0.3)
    core = data.task.core
    print(f"{core.dim} numbers of state: {', '.join(core.names)}")
    print(f"{core.shown_dim} of {data.task.obs_dim} columns are predicted, the others follow exactly")

    train, calib = data.split((0.8, 0.2))
    world = wmgym.calibrate(wmgym.fit(train, config, progress=True), calib)
    world.save("push_bot_world")
    report = wmgym.score(world, {"chase": chase}, real_episodes=10)
    print(report)

    wmgym.register("lab/PushBot-v0", "push_bot_world")
    env = gym.make("wmgym/lab/PushBot-v0", render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        obs, _, _, _, info = env.step(chase(obs[None])[0])
    picture = env.render()
    print(f"after 20 imagined steps the box is at {obs[7]:.3f} m, within {info['error_bound'][2]:.3f}")
    np.save("imagined.npy", picture)
    env.close()
    return report


if __name__ == "__main__":
    main()
