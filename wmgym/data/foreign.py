"""Policies of other libraries, as functions of a batch of observations: models, torch modules, ONNX files."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.tasks.actions import from_zero


class ModelPolicy:
    """A model with ``predict``, such as Stable-Baselines3's, with all that it was trained behind.

    Attributes:
        keywords: arguments that it takes beside observations.
        takes_dict: whether it was made for the env's Dict observations.
        action_space: that it acts in, None where it does not say.
    """

    def __init__(self, predict: Callable[..., Any], model: Any) -> None:
        """Of a method or a partial of one, and the model that it belongs to.

        Raises:
            ValueError: it was trained behind a ``VecNormalize`` whose statistics it does not have.
        """
        self._predict = predict
        self.keywords = _parameters(predict)
        self.takes_dict = isinstance(getattr(model, "observation_space", None), spaces.Dict)
        space = getattr(model, "action_space", None)
        homes = {each.__module__.partition(".")[0] for each in type(model).__mro__}
        counts = bool(homes & {"stable_baselines3", "sb3_contrib"})  # from 0, whatever its space says
        self.action_space = from_zero(space) if counts and space is not None else space
        self._normaliser = normaliser_of(model)

    def __call__(self, obs: Any, **memory: Any) -> Any:
        """What ``predict`` returns for env observations."""
        if self._normaliser is not None:
            obs = self._normaliser.normalize_obs(obs)
        return self._predict(obs, **memory)


def normaliser_of(model: Any) -> Any:
    """The ``VecNormalize`` that a Stable-Baselines3 model was trained behind, or None.

    Raises:
        ValueError: the model shows that there was one, and does not have it.
    """
    own = getattr(model, "get_vec_normalize_env", None)
    found = own() if callable(own) else None
    if found is not None:
        return found if found.norm_obs else None
    # What on-policy algorithms remember of the env behind a VecNormalize; without one it stays None.
    if hasattr(model, "rollout_buffer") and getattr(model, "_last_original_obs", None) is not None:
        raise ValueError(
            "the model was trained behind a VecNormalize, whose statistics are not in its zip; load them "
            "too: model.set_env(VecNormalize.load(path, venv))"
        )
    return None


class ModulePolicy:
    """A ``torch.nn.Module`` that maps observations to actions, or to scores of a Discrete's actions."""

    scores = True

    def __init__(self, module: Any) -> None:
        """A copy of it is called, in evaluation mode."""
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        tensors = [*self._module.parameters(), *self._module.buffers()]
        self._device = tensors[0].device if tensors else None
        self._dtype = next((each.dtype for each in tensors if each.is_floating_point()), None)

    def __call__(self, obs: np.ndarray) -> Any:
        """Its output as an array."""
        import torch

        with torch.no_grad():
            given = torch.as_tensor(np.asarray(obs, np.float32), dtype=self._dtype, device=self._device)
            answer = self._module(given)
        if isinstance(answer, tuple):
            return tuple(_plain(each) if isinstance(each, torch.Tensor) else each for each in answer)
        return _plain(answer)


def _plain(tensor: Any) -> np.ndarray:
    """As an array, which knows no bfloat16."""
    return np.asarray((tensor.double() if tensor.is_floating_point() else tensor).cpu().numpy())


class OnnxPolicy:
    """An ONNX file that maps observations to actions, or to scores of a Discrete's actions.

    Its first input takes the observations and its first output gives the actions; where the file fixes the
    number of rows, as exports for a robot fix 1, they go through in such portions.
    """

    scores = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file; ONNX Runtime runs no code from it but its graph.

        Raises:
            ImportError: ONNX Runtime is not installed.
            ValueError: no file that ONNX Runtime can read.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"{path} needs ONNX Runtime: pip install 'wmgym[onnx]'") from error
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no class
            raise ValueError(
                f"{path} is no ONNX file that can be run: {str(error).splitlines()[0]}"
            ) from error
        given = self._session.get_inputs()[0]
        self._input, rows = given.name, given.shape[0] if given.shape else None
        self._rows = rows if isinstance(rows, int) and rows > 0 else None
        self.name = os.path.splitext(os.path.basename(path))[0]

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Its first output for observations ``(n, ...)``."""
        given = np.ascontiguousarray(obs, np.float32)
        if self._rows is None:
            return self._run(given)
        spare = -len(given) % self._rows
        given = np.concatenate([given, np.repeat(given[-1:], spare, 0)])
        parts = (given[at : at + self._rows] for at in range(0, len(given), self._rows))
        return np.concatenate([self._run(part) for part in parts])[: len(obs)]

    def _run(self, given: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, {self._input: given})[0])


def foreign_policy(policy: Any) -> Any:
    """A policy of another library as a function of observations; anything else as it is."""
    predict = getattr(policy, "predict", None)
    if callable(predict):
        names = _parameters(predict)
        if _ANY in names:  # it may pass on what it is not told of, or may not
            predict = _WithoutNoise(predict)
        elif "deterministic" in names:  # as SB3's evaluation asks
            predict = functools.partial(predict, deterministic=True)
        return ModelPolicy(predict, policy)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(policy, torch.nn.Module):
        return ModulePolicy(policy)
    bound = policy
    while isinstance(bound, functools.partial):
        bound = bound.func
    owner = getattr(bound, "__self__", None)
    if getattr(bound, "__name__", "") == "predict" and owner is not None:
        return ModelPolicy(policy, owner)
    return policy


class _WithoutNoise:
    """A ``predict`` that takes any keyword, asked for deterministic actions as long as it can be."""

    def __init__(self, predict: Callable[..., Any]) -> None:
        self._predict, self._asked = predict, True
        self.__wrapped__ = predict  # whose signature it has

    def __call__(self, obs: Any, **memory: Any) -> Any:
        if self._asked:
            try:
                return self._predict(obs, deterministic=True, **memory)
            except Exception as error:  # it says so already, or knows no such thing
                if "deterministic" not in str(error):
                    raise
                self._asked = False
        return self._predict(obs, **memory)


_ANY = "**"
"""Among the names of what a function takes, where it takes any keyword and nobody knows which it uses."""


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Names of what it takes; of a method that passes ``**kwargs`` on, those of the class above it too."""
    method = function
    while isinstance(method, functools.partial):
        method = method.func
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    above = [vars(kind)[name] for kind in type(owner).__mro__ if name in vars(kind)]
    names: set[str] = set()
    for each in (function, *above[1:]):
        try:
            parameters = inspect.signature(each).parameters
        except (TypeError, ValueError):  # builtins have no signature
            break
        names |= parameters.keys()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            return frozenset(names)
        names.add(_ANY)
    return frozenset(names)
