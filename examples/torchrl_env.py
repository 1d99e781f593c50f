"""The learned simulator as a TorchRL environment: ``GymEnv`` takes its id like any other."""

import argparse

from torchrl.envs import GymEnv, RewardSum, StepCounter, TransformedEnv

import wmgym  # noqa: F401  (registers the ids)


def main(env_id: str, steps: int) -> None:
    env = TransformedEnv(GymEnv(f"wmgym/{env_id}"))
    env.append_transform(StepCounter())
    env.append_transform(RewardSum())
    env.set_seed(0)
    rollout = env.rollout(steps, break_when_any_done=False)
    ended = rollout["next", "done"].squeeze(-1)
    print(rollout)
    print(f"steps: {len(rollout)}")
    print(f"episodes ended: {int(ended.sum())}")
    print(f"largest return of one: {float(rollout['next', 'episode_reward'].max()):.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="InvertedPendulum-v5")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    main(args.env, args.steps)
