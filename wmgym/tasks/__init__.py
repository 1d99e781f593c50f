"""What is known of an env: spaces, state layout, reward, termination, and MuJoCo's own answers."""

import functools

from wmgym.io import deprecation

__getattr__ = functools.partial(deprecation.look_up, "tasks")  # it was a module
