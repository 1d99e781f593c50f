"""The caller's functions of observations, tried on data before anything long begins."""

from __future__ import annotations

import numpy as np

from wmgym.data.odd_columns import some_rows
from wmgym.data.transitions import Transitions
from wmgym.tasks import actions

_FEW, _SOME = 7, 1_000  # rows for shapes, no size of anything else, and rows for values


def try_functions(data: Transitions) -> None:
    """Call ``reward_fn`` and ``terminated_fn``, where the caller gave them, on some rows of the data.

    Raises:
        ValueError: one raises, returns other than one value a row, or numbers that are not finite.
    """
    import torch  # takes a second that importing files need not wait for

    first = torch.as_tensor(actions.first(data.task.action_space))
    for rows in (np.arange(min(len(data), _FEW)), some_rows(data, _SOME)):
        state, after, unobserved, action = (
            torch.tensor(x[rows]) for x in (data.state, data.next_state, data.unobserved, data.action)
        )
        for name in ("reward", "terminated"):
            function = getattr(data.task, name)
            if function is None or data.task.from_table:
                continue
            answer = torch.as_tensor(function(state, action + first, after, unobserved))
            if not answer.isfinite().all():
                wrong = int((~answer.isfinite()).nonzero()[0])
                raise ValueError(
                    f"{name}_fn returned {answer[wrong]:g} for row {rows[wrong]} of the data; mend it"
                )
