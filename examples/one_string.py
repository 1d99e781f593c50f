"""An SB3 script that trains in the learned simulator once one string has changed, then scored in MuJoCo.

Nothing but ``wmgym/`` before the env's id differs from what Stable-Baselines3's own documentation has.
"""

import argparse

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import wmgym  # registers the ids


def main(env_id: str, steps: int) -> None:
    train_env = make_vec_env(f"wmgym/{env_id}", n_envs=8, seed=0)  # was make_vec_env(env_id, ...)
    model = PPO("MlpPolicy", train_env, n_steps=128, batch_size=256, learning_rate=1e-3, seed=0, device="cpu")
    model.learn(steps)

    # The same with all episodes stepped as one batch, which is what makes it fast.
    fast_env = wmgym.sb3.ImaginedVecEnv(env_id, num_envs=256)
    fast = PPO("MlpPolicy", fast_env, n_steps=32, batch_size=1_024, learning_rate=1e-3, seed=0, device="cpu")
    fast.learn(4 * steps)

    real_env = Monitor(gym.make(env_id))
    for name, agent in (("one string changed", model), ("one batch", fast)):
        mean, std = evaluate_policy(agent, real_env, n_eval_episodes=10)
        print(f"{name}, real return: {mean:.1f} +- {std:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="InvertedPendulum-v5")
    parser.add_argument("--steps", type=int, default=100_000)
    args = parser.parse_args()
    main(args.env, args.steps)
