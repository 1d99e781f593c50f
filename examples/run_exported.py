"""Run an exported policy in an exported world with ONNX Runtime alone: neither wmgym nor torch is imported.

Export first: ``wmgym.load("Hopper-v5").export("world.onnx")``, ``policy.export("policy.onnx")``.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

world_file, policy_file = (Path(name) for name in sys.argv[1:3])
contract = json.loads(world_file.with_suffix(".json").read_text())
world, policy = (onnxruntime.InferenceSession(str(path)) for path in (world_file, policy_file))
outputs = [each.name for each in world.get_outputs()]

core_dim = len(contract["names"]["core"])
state = np.array(contract["starts"][:1], np.float32)  # of a real episode
given = {"core": state[:, :core_dim], "shown": state[:, core_dim:], "member": np.array([0])}
obs, total, step = np.array(contract["first_obs"][:1], np.float32), 0.0, 0
while step < (contract["max_episode_steps"] or 1_000):
    step += 1
    given |= {"action": policy.run(None, {"obs": obs})[0], "elapsed": np.array([step])}
    said = dict(zip(outputs, world.run(None, {x: given[x] for x in contract["inputs"]}), strict=True))
    given |= {"core": said["next_core"], "shown": said.get("next_shown", given["shown"])}
    obs, total = said["obs"].astype(np.float32), total + said["reward"].item()
    if said["terminated"].item() or said["diverged"].item():
        break
print(f"return {total:.3f} in {step} steps of {contract['dt']} s")
print(f"{contract['names']['core'][0]}: {said['next_core'][0, 0]:.3f} +- {said['error_bound'][0, 0]:.3f}")
