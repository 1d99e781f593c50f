"""What the tests of a world find, as values of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wmgym.io.schema import STRICT, Amount, Count, Share

Level: TypeAlias = Literal["trust", "trust for ranking only", "do not trust"]


@dataclass(frozen=True)
class Alternative:
    """How well a world predicts what one kind of actions does, taken from real states.

    Attributes:
        actions: "logged" are those that the policy took there; "random" are uniform; "another policy" are
            consecutive ones of another policy; "noise" are the logged ones with Gaussian noise, whose
            standard deviation is 0.3 of half the action range (Box only).
        branches: number of real states that they were taken from.
        error: median over branches of the state's error at their end, mean over core dimensions, in standard
            deviations of the real states. Where the real env ends a branch, or that of the logged actions,
            early, this is its end.
        coverage: share of errors, at all steps, inside the world's error bounds; None without bounds.
        cosine: median cosine between the imagined and the real difference that these actions make against
            the logged ones at the end of a branch; None for the logged ones, and where nothing differs.
        difference_error: median length of the error of that difference, relative to the difference's length;
            None likewise.
    """

    __pydantic_config__ = STRICT

    actions: str
    branches: Count
    error: Amount
    coverage: Share | None
    cosine: float | None
    difference_error: Amount | None


@dataclass(frozen=True)
class Counterfactual:
    """Whether a world knows what would have happened under other actions.

    Attributes:
        steps: length of a branch.
        alternatives: the logged actions first, then each other kind; empty where the test was skipped.
        skipped: why it was, in a line; empty where it was not.
    """

    __pydantic_config__ = STRICT

    steps: Count
    alternatives: tuple[Alternative, ...]
    skipped: str = ""


@dataclass(frozen=True)
class Speed:
    """Steps per second of one core while a report was made.

    Attributes:
        real: of the episodes in the real env, with their policies and recording.
        physics: of MuJoCo alone, without Gymnasium, observations or a policy; None for other envs.
        imagined: of the imagined episodes, with their policies.
        side_by_side: how many of them ran in one batch.
        alone: of a single imagined env, without a policy.
        many: of 1,024 imagined envs in one batch, without a policy.
    """

    __pydantic_config__ = STRICT

    real: Amount
    physics: Amount | None
    imagined: Amount
    side_by_side: Count
    alone: Amount
    many: Amount


@dataclass(frozen=True)
class Reason:
    """What one rule says of a report.

    Attributes:
        rule: the rule's name.
        passed: None where the report holds too little to say; that counts as not passed.
        text: why, in a sentence with its numbers.
    """

    __pydantic_config__ = STRICT

    rule: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether a world's returns may be believed, and why.

    Attributes:
        level: "trust" where every rule passed; "trust for ranking only" where those did that the order of
            policies depends on; else "do not trust".
        reasons: one for each rule: failed ones first, then those that nothing is known of, then passed ones.
        scope: the policies that trust is limited to, such as "policies of this training", where those that
            were scored come from too few trainings to speak for others; empty where it is not.
    """

    __pydantic_config__ = STRICT

    level: Level
    reasons: tuple[Reason, ...]
    scope: str = ""

    @property
    def title(self) -> str:
        """The level and what it is limited to."""
        return f"{self.level} ({self.scope})" if self.scope else self.level

    def __str__(self) -> str:
        """The level, then a line for each reason."""
        marks = {False: "-", None: "?", True: "+"}
        return "\n".join([self.title, *(f"{marks[each.passed]} {each.text}" for each in self.reasons)])
