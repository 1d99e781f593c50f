"""A robot that is not the simulator: the gap measured, explained and closed, and a policy retrained."""

import argparse
import tempfile
from pathlib import Path

from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

import wmgym

parser = argparse.ArgumentParser()
parser.add_argument("--real-steps", type=int, default=2_000, help="steps of the robot to learn from")
parser.add_argument("--train-steps", type=int, default=4_000, help="imagined steps to retrain with")
parser.add_argument("--simulator-steps", type=int, default=10_000, help="of the identified simulator, or 0")
parser.add_argument("--episodes", type=int, default=5, help="episodes of each policy, to judge")
args = parser.parse_args()

# MuJoCo plays both parts: Hopper-v5 is the simulator, one with weak motors that act late is reality.
robot = wmgym.make_task(wmgym.shift("Hopper-v5", gear=0.8, delay=1))
deployed = wmgym.load_policy(Path(__file__).resolve().parents[1] / "policies/Hopper-v5/sac-250k")

# Deploy, and keep the log: some steps to learn from, some for the bounds, and some to judge by.
log, calib, test = (
    wmgym.collect(robot, deployed, steps=steps, seed=seed, noise=0.1, max_episode_steps=100)
    for seed, steps in enumerate((args.real_steps, args.real_steps // 2, 500))
)
print("real steps:", len(log) + len(calib) + len(test))

# How large is the gap, and what is it made of?
print(wmgym.gap(test, "Hopper-v5"))
print(explained := wmgym.identify(log, "Hopper-v5"))

# Close it, in two ways: adapt a learned world, or correct MuJoCo's own step of the identified model.
adapted = wmgym.adapt(wmgym.load("Hopper-v5"), log, calib)
config = wmgym.FitConfig(members=5, width=128, depth=2, max_updates=1_500, learning_rate=2e-3)
hybrid = wmgym.fit(log, config, dynamics=wmgym.residual(explained.simulator()))
for name, simulator in {"nominal": "Hopper-v5", "adapted": adapted, "hybrid": hybrid}.items():
    print(f"error of {name}: {wmgym.gap(test, simulator).open_loop:.4f}")

# Retrain from the old policy in the adapted world; the identified simulator keeps the best on the way.
checks = {"eval_freq": max(1, args.train_steps // 160), "n_eval_episodes": 3, "verbose": 0}
config = wmgym.TrainConfig("DynaSAC", steps=args.train_steps, num_envs=16)
with tempfile.TemporaryDirectory() as folder:
    keep = EvalCallback(Monitor(explained.simulator()), best_model_save_path=folder, **checks)
    wmgym.train(adapted, config, policy=deployed, callback=keep)
    agent = wmgym.sb3.DynaSAC.load(Path(folder) / "best_model")

# Or let it go on in the identified simulator as if that were the robot: no step of the robot either.
policies = {"deployed": deployed, "retrained": agent}
if args.simulator_steps:
    learner = wmgym.sb3.DynaSAC("MlpPolicy", explained.simulator(), seed=0, begin=deployed)
    policies["continued"] = learner.learn(args.simulator_steps)

# A gate before the robot: deploy only what is better in the closest simulator, from the same start states.
print(ranked := wmgym.rank(hybrid, policies, episodes=20), "\nto deploy:", ranked.names[0])

# Deploy, and see whether the simulator was right this time.
for row in wmgym.gap(robot, hybrid, policies, episodes=args.episodes).returns:
    print(f"{row.policy}: real {row.real_mean:.0f}, simulated {row.simulated_mean:.0f}")
