"""A model of your own, a GRU over each episode's history: fitted, calibrated, saved, stepped and scored."""

import tempfile

import gymnasium as gym
import numpy as np
import torch

import wmgym
from wmgym.models.dynamics import targets


@wmgym.register_dynamics("gru")  # the name by which wmgym.load finds this class again
class GRUDynamics(torch.nn.Module):
    def __init__(self, inputs, target_dim):
        super().__init__()
        self.num_members, self.target_dim = 1, target_dim
        self.settings = {"inputs": inputs, "target_dim": target_dim}  # saved with the weights
        self.cell, self.head = torch.nn.GRUCell(inputs, 32), torch.nn.Linear(32 + inputs, target_dim)
        self.register_buffer("unit", torch.ones(target_dim))  # of a change
        self.register_buffer("error", torch.ones(target_dim))

    def predict(self, core, action, carry=None):  # the carry is the hidden state (batch, 32)
        seen = torch.cat([core, action], 1)
        hidden = self.cell(seen, carry)
        mean = self.unit * self.head(torch.cat([hidden, seen], 1))
        return wmgym.Prediction(mean[None], self.error.expand(1, *mean.shape), carry=hidden)

    @classmethod
    def fit(cls, train, config, seed):
        torch.manual_seed(seed)
        core, action, change = torch.tensor(train.core), torch.tensor(train.action), targets(train)
        model = cls(core.shape[1] + action.shape[1], change.shape[1])
        model.unit.copy_(change.std(0))
        rows = train.first[:, None] + np.arange(40)  # the first steps of each episode
        alive, rows = rows < (train.first + train.lengths)[:, None], rows.clip(max=len(train) - 1)
        optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
        for _ in range(config.max_updates):
            carry, errors = None, []
            for now in rows.T:
                said = model.predict(core[now], action[now], carry)
                carry = said.carry
                errors.append((said.mean[0] - change[now]) / model.unit)
            error = torch.stack(errors, 1)[torch.tensor(alive)]
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
        model.error.copy_(error.detach().square().mean(0).sqrt() * model.unit)
        return model.requires_grad_(False)


policies = {"random": None, "balance": lambda obs: 2.0 * obs[:, 1:2]}
data = wmgym.collect("InvertedPendulum-v5", policies, steps=3_000, noise=0.1)
train, calib = data.split((0.8, 0.2), seed=0)
world = wmgym.calibrate(wmgym.fit(train, wmgym.FitConfig(max_updates=400), dynamics=GRUDynamics), calib)
with tempfile.TemporaryDirectory() as path:
    world.save(path)
    env = gym.make("wmgym/InvertedPendulum-v5", world=path, trust=True)
    print("observation:", env.reset(seed=0)[0], "->", env.step(np.zeros(1, np.float32))[0])
    print(wmgym.score(path, {"balance": policies["balance"]}))
