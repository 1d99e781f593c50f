"""Which reference policies there are: runs of every env, and what each learns from."""

from __future__ import annotations

MANY = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5")
FEW = (
    "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5", "Humanoid-v5",
    "HumanoidStandup-v5",
)  # fmt: skip

AIMS = {
    "Swimmer-v5": 300, "HalfCheetah-v5": 6_000, "Hopper-v5": 2_500, "Walker2d-v5": 3_000, "Ant-v5": 2_500,
}  # fmt: skip
"""Returns near the published ones at a million steps."""

BY_HAND = ("constant", "bang-bang", "noise-white", "noise-coloured", "leaning")
"""Policies are functions of the observation alone, so noise is a random network: a large gain makes its
actions jump from step to step, a small one lets them follow the body slowly."""

Runs = dict[str, tuple[int, ...]]
"""Real steps of every run, by algorithm."""

LEARNED_MANY: Runs = {
    "SAC": (10_000, 25_000, 60_000, 250_000), "TQC": (15_000, 40_000), "TD3": (30_000, 60_000),
    "PPO": (50_000, 200_000, 600_000, 2_000_000),
}  # fmt: skip
LEARNED_FEW: dict[str, Runs] = {
    "InvertedPendulum-v5": {"PPO": (4_000, 10_000, 30_000), "SAC": (2_000, 6_000), "TD3": (5_000,)},
    "InvertedDoublePendulum-v5": {
        "PPO": (20_000, 100_000, 400_000), "SAC": (5_000, 20_000), "TD3": (15_000,)},
    "Reacher-v5": {"PPO": (20_000, 100_000, 500_000), "SAC": (3_000, 15_000), "TD3": (10_000,)},
    "Pusher-v5": {"PPO": (50_000, 300_000, 1_000_000), "SAC": (5_000, 40_000), "TD3": (20_000,)},
    "Humanoid-v5": {"PPO": (100_000, 500_000, 2_000_000), "SAC": (20_000, 60_000), "TQC": (50_000,)},
    "HumanoidStandup-v5": {
        "PPO": (50_000, 800_000, 200_000), "SAC": (5_000, 60_000, 20_000), "TD3": (15_000,),
        "TQC": (30_000, 10_000)},
}  # fmt: skip
MORE: dict[str, Runs] = {
    "InvertedPendulum-v5": {"PPO": (20_000,), "SAC": (10_000,)},
    "InvertedDoublePendulum-v5": {"PPO": (250_000, 150_000)},
    "Hopper-v5": {"PPO": (1_000_000,)},
    "Walker2d-v5": {"PPO": (1_000_000,)},
    "Swimmer-v5": {"PPO": (1_000_000,), "SAC": (150_000,)},
    "HalfCheetah-v5": {"SAC": (120_000, 400_000)},
    "Ant-v5": {"PPO": (1_000_000,)},
}
"""Runs that fill gaps which the others left; at the end, so that no other changes its split."""

CALIBRATE_MANY: Runs = {
    "PPO": (100_000, 400_000), "SAC": (15_000, 40_000), "TQC": (25_000,), "TD3": (20_000,),
}  # fmt: skip
CALIBRATE: dict[str, Runs] = {
    "InvertedPendulum-v5": {
        "PPO": (3_000, 6_000, 15_000, 25_000), "SAC": (3_000, 4_000), "TD3": (3_000, 8_000)},
    "InvertedDoublePendulum-v5": {
        "PPO": (10_000, 50_000, 200_000, 300_000), "SAC": (3_000, 10_000), "TD3": (5_000, 30_000)},
    "Reacher-v5": {"PPO": (10_000, 50_000, 200_000, 300_000), "SAC": (5_000, 10_000), "TD3": (5_000, 20_000)},
    "Pusher-v5": {"PPO": (20_000, 100_000, 600_000), "SAC": (10_000, 20_000), "TD3": (10_000, 30_000)},
    "Humanoid-v5": {
        "PPO": (50_000, 200_000, 800_000), "SAC": (10_000, 40_000), "TD3": (30_000,), "TQC": (25_000,)},
    "HumanoidStandup-v5": {"PPO": (100_000, 400_000), "SAC": (10_000,), "TD3": (10_000,)},
}  # fmt: skip
"""Runs whose policies only calibrate: a bound for one more policy needs about nine, arXiv:2306.06342."""
