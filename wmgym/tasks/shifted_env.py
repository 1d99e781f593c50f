"""The env of a changed robot: the nominal env's own class over a changed model, with a drive in between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.registration import load_env_creator

from wmgym.io.arguments import keywords, whole_number
from wmgym.tasks.real_env import refuse_import
from wmgym.tasks.shift import Shift, shift_of

_DRAWING = (
    "render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom",
    "visual_options",
)  # fmt: skip


class Drive:
    """What lies between commands and actuators: a delay, then play."""

    def __init__(self, change: Shift, low: np.ndarray, high: np.ndarray) -> None:
        """At rest; ``low`` and ``high`` ``(nu,)`` are the limits of the commands."""
        self._delay, self._half = change.delay, change.backlash * (high - low) / 2
        self.rest()

    def rest(self) -> None:
        """Forget all commands."""
        self.held = np.zeros((self._delay + 1, len(self._half)))  # commands under way, then what acts

    def __call__(self, command: np.ndarray) -> np.ndarray:
        """What acts when ``command`` ``(nu,)`` is given."""
        line = np.concatenate([np.asarray(command, np.float64)[None], self.held[:-1]])
        arrived = line[-1]  # the command itself without delay
        acts: np.ndarray = np.clip(self.held[-1], arrived - self._half, arrived + self._half)
        self.held = np.concatenate([line[:-1], acts[None]])
        return acts


def make_shifted(
    env_id: str = "", env_kwargs: Mapping[str, Any] | None = None, **changes: Any
) -> gym.Env[Any, Any]:
    """Entry point of ``gym.make("wmgym/Shifted-v0", env_id=..., ...)``; see ``wmgym.shift``.

    Raises:
        ValueError: the env is no MuJoCo env of Gymnasium's kind, or keywords that it cannot have.
    """
    if not env_id:
        raise ValueError("wmgym/Shifted-v0 takes env_id=, the id of the robot to change, and what to change")
    drawing = {name: changes.pop(name) for name in _DRAWING if name in changes}
    refuse_import(env_id)
    change, spec = shift_of(changes), gym.spec(env_id.rpartition(":")[2])
    assert spec.entry_point is not None
    kind: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    if not (isinstance(kind, type) and issubclass(kind, MujocoEnv)):
        raise ValueError(f"{env_id} is no MuJoCo env of Gymnasium's kind, which alone can be shifted")
    if change.sensor_noise and not hasattr(kind, "_get_obs"):
        raise ValueError(
            f"sensor_noise acts in _get_obs, which the class of {env_id} does not have; give it that method "
            "for its observations, or leave sensor_noise out"
        )
    made = type(f"Shifted{kind.__name__}", (_Shifted, kind), {"shift": change})
    own = {} if env_kwargs is None else keywords("env_kwargs", env_kwargs)
    if "frame_skip" in own:  # MuJoCo takes others, and goes backwards or fails at the first step
        own["frame_skip"] = whole_number("frame_skip", own["frame_skip"])
    env: gym.Env[Any, Any] = made(**{**spec.kwargs, **own, **drawing})
    return env


class _Shifted:
    """Comes before the nominal env's class; ``shift`` is set in each class that is made of the two."""

    shift: Shift
    np_random: np.random.Generator
    data: Any
    _drive: Drive | None = None
    _driven = _sensed = False  # whether the step under way went through the drive, and the sensors

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model, _ = super()._initialize_simulation()  # type: ignore[misc]
        change_model(model, self.shift)
        # What the play is a share of.
        self._drive = Drive(self.shift, *model.actuator_ctrlrange.T)
        return model, mujoco.MjData(model)

    def _step_mujoco_simulation(self, ctrl: np.ndarray, n_frames: int) -> None:
        if self._drive is not None and (self.shift.delay or self.shift.backlash):
            ctrl = self._drive(ctrl)
        self._driven = True
        super()._step_mujoco_simulation(ctrl, n_frames)  # type: ignore[misc]

    def step(self, action: Any) -> Any:
        """The nominal env's step; refuses an env that goes past what is changed, and a state of NaN."""
        self._driven = self._sensed = False
        outcome = super().step(action)  # type: ignore[misc]
        if (self.shift.delay or self.shift.backlash) and not self._driven:
            raise ValueError("delay and backlash act in do_simulation, by which this env does not step")
        if self.shift.sensor_noise and not self._sensed:
            raise ValueError("sensor_noise acts in _get_obs, by which this env does not make observations")
        if not np.isfinite(self.data.qpos.sum() + self.data.qvel.sum()):
            raise ValueError("the state of a robot that is changed so much becomes NaN; change it less")
        return outcome

    def reset_model(self) -> np.ndarray:
        assert self._drive is not None
        self._drive.rest()
        obs: np.ndarray = super().reset_model()  # type: ignore[misc]
        return obs

    def _get_obs(self) -> Any:
        self._sensed = True
        obs = super()._get_obs()  # type: ignore[misc]
        return self._noisy(obs) if self.shift.sensor_noise else obs

    def _noisy(self, obs: Any) -> Any:
        if isinstance(obs, Mapping):
            return {name: self._noisy(part) for name, part in obs.items()}
        return obs + self.shift.sensor_noise * self.np_random.standard_normal(obs.shape)


def change_model(model: Any, change: Shift) -> None:
    """Change an ``mjModel`` in place; what a shift leaves alone keeps its bits."""
    if change.friction != 1:
        model.geom_friction[:] *= change.friction
    if change.damping != 1:
        model.dof_damping[:] *= change.damping
    if change.gear != 1:
        _strengthen(model, change.gear)
    if change.mass != 1:
        model.body_mass[:] *= change.mass
        model.body_inertia[:] *= change.mass
    if change.payload:
        _load(model, change.payload, np.array(change.payload_at))
    if change.slope:
        angle = math.radians(change.slope)
        down = -model.opt.gravity[2]
        model.opt.gravity[:] = -down * math.sin(angle), 0.0, -down * math.cos(angle)
    if change.mass != 1 or change.payload or change.gear != 1:
        mujoco.mj_setConst(model, mujoco.MjData(model))


def _strengthen(model: Any, factor: float) -> None:
    """Scale the forces of all actuators.

    The gear does it where the force depends on the command alone. Elsewhere it would also scale the length
    that a servo regulates, which then settles elsewhere, or at which a muscle is: its gains are scaled there.
    """
    plain = (model.actuator_biastype == mujoco.mjtBias.mjBIAS_NONE) & (
        model.actuator_gaintype == mujoco.mjtGain.mjGAIN_FIXED
    )
    model.actuator_gear[plain] *= factor
    for row in np.flatnonzero(~plain):
        muscle = model.actuator_gaintype[row] == mujoco.mjtGain.mjGAIN_MUSCLE
        scaled = slice(2, 4) if muscle else slice(0, 3)  # force and scale; or what is affine in the length
        for parameters in (model.actuator_gainprm[row], model.actuator_biasprm[row]):
            found = parameters[scaled]
            found[found > 0 if muscle else slice(None)] *= factor  # a force below 0 asks for the scale


def _load(model: Any, mass: float, at: np.ndarray) -> None:
    """Add a point mass to the first body that moves: mass, centre of mass and principal inertia of both."""
    moving = np.flatnonzero((model.body_weldid > 0) & (model.body_mocapid < 0))
    if not len(moving):
        raise ValueError("a payload needs a body that moves")
    body = int(moving[0])
    if model.body_simple[body]:
        raise ValueError(f"a payload needs the body {model.body(body).name!r} to have simple='false'")
    turn, quat = np.empty(9), np.empty(4)
    mujoco.mju_quat2Mat(turn, model.body_iquat[body])
    axes, own = turn.reshape(3, 3), float(model.body_mass[body])
    centre = (own * model.body_ipos[body] + mass * at) / (own + mass)
    inertia = axes @ np.diag(model.body_inertia[body]) @ axes.T
    for each, where in ((own, model.body_ipos[body].copy()), (mass, at)):
        arm = where - centre
        inertia += each * (arm @ arm * np.eye(3) - np.outer(arm, arm))
    moments, vectors = np.linalg.eigh(inertia)
    vectors[:, 0] *= np.sign(np.linalg.det(vectors))  # a rotation, no mirror image
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(vectors).reshape(-1))
    model.body_mass[body], model.body_ipos[body] = own + mass, centre
    model.body_inertia[body], model.body_iquat[body] = moments, quat
    model.body_sameframe[body] = 0  # else MuJoCo goes on to take the one frame for the other
