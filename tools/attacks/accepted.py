"""What may be changed in an artifact so that it is another sound one, and why."""

from __future__ import annotations

_TEXT = r"(''|text|NUL|two lines|module:|long|a letter more)"
_POSITIVE = r"(0|1|0\.5|1e300|1e10|2\^63|as float)"
_NUMBER = rf"({_POSITIVE}|-1|-0\.5|negated)"
_LIST = r"(\[\]|twice|longer|shorter)"
_FINITE = r"(one (?!nan|-?inf).*|negated|zeros|all -1|1e30 times|reversed|turned|as float16)"
_BOUND = r"(one (1e\+38|inf|1000000000)|zeros|1e30 times|reversed|turned|as float16)"
_VERSIONS = rf"versions(\.\w+)?: ({_TEXT}|gone|\{{\}}|a key more)"
_TASK = "|".join(
    [
        rf"task\.env_id: {_TEXT}",
        r"task\.env_kwargs: a key more",
        r"task\.names: (\[\]|gone|null)",
        r"task\.(layout|dict_space|traits): gone",  # as before there was one
        r"task\.traits: \{\}",  # no number of the observation is known to be special
        rf"task\.dt: {_POSITIVE}",
        rf"task\.max_episode_steps: (null|{_POSITIVE})",
        rf"task\.action_space\.(start|(low|high)\.\*): {_NUMBER}",
        rf"task\.observation_space\.(low|high)\.\*: (null|{_NUMBER})",
        r"header: metadata",
    ]
)
FREE: dict[str, str] = {
    # Any finite weights make a network, any spaces and names a task; what fit and calibrate say of themselves
    # is text to people. Bounds that do not hold are found by wmgym.calibration.online.check.
    "world": "|".join(
        [
            _TASK,
            r"provenance\.fit(\.\S*)?: .*",
            rf"provenance\.{_VERSIONS}",
            rf"provenance\.steps: {_POSITIVE}",
            rf"(provenance|calibration)\.fingerprints(\.\*)?: (gone|{_LIST})",
            r"calibration\.level: 0\.5",
            rf"calibration\.episodes: {_POSITIVE}",
            rf"support\.typical: {_POSITIVE}",
            r"(dynamics|readout)\.settings\.\S+: (gone|true)",
            r"outcomes\.network\.\S+: (gone|true)",
            rf"(dynamics|readout)\.(?!settings)\S+: {_FINITE}",
            rf"outcomes\.values\.\*: (null|{_NUMBER})",  # what a step may pay
            r"outcomes: gone",  # of a world that has none
            rf"outcomes\.(?!values|ends|rates|drawn|settings)\S+: {_FINITE}",  # their network
            rf"calibration\.(half_width|per_disagreement|tube|distrust)\.\w+: {_BOUND}",
            r"calibration\.coverage\.\w+: (one (nan|1|1000000000)|zeros|reversed|turned|as float16)",
            r"calibration\.power\.\w+: (zeros|reversed|as float16)",
            rf"calibration\.center: {_FINITE}",
            r"calibration\.(data_std|reach|std_scale): "
            r"(one (1e\+38|1000000000)|zeros|negated|1e30 times|reversed|as float16)",
            r"calibration\.windows: (zeros|reversed|one 1000000000)",
            r"support\.(core|next_core|action|episode|step): "
            r"(one (-1|1000000000)|all -1|negated|zeros|reversed|turned|as float16)",
            r"(start_states|check): (null|gone)",  # as before they were written down
            r"(starts|low|high): (one .*|negated|zeros|all -1|1e30 times|reversed|as float16)",
        ]
    ),
    # What was logged may be anything finite; fit refuses what float32 arithmetic cannot work with.
    "transitions": "|".join(
        [
            _TASK,
            _VERSIONS,
            rf"episode_policy\.\*: {_TEXT}",
            rf"(obs|next_obs|core|next_core|action): {_FINITE}",
            rf"(reward|unobserved): {_FINITE}",
            r"reward: gone",
            r"episode_seed: (one .*|all -1|zeros|reversed)",
            r"(truncated|terminated): (one .*|zeros|negated|all -1|reversed)",
        ]
    ),
    # Any finite weights make a policy, of any precision; its card is text to people.
    "policy": "|".join(
        [
            rf"name: {_TEXT}",
            r"card(\.\S*)?: .*",
            rf"\S+: {_FINITE}",
            r"\S+: as float64",
            r"log_std_weight: gone",
            r"inputs: (null|gone)",  # as before it was written down
            r"(low|high): as int8",
            r"(activation|head): .*",
            r"header: metadata",
            r"stochastic: gone",
        ]
    ),
    "agent": rf"\S+: {_FINITE}|seed.*|: .*|bytes: twice|header: metadata",  # the document is not read
    # A report that does not contradict itself.
    "report": "|".join(
        [
            rf"\S*(env_id|name|world|text|rule|scope|skipped|actions): {_TEXT}",
            rf"origin\.{_VERSIONS}",
            rf"origin\.speed\.\w+: {_POSITIVE}",
            rf"(seed|\w*episodes|\w*steps): {_POSITIVE}",
            rf"\S+\.\*: {_NUMBER}",
            rf"\S+(_s|_length): {_POSITIVE}",
            rf"scale: {_POSITIVE}",  # what a gap of 1 stands for, as gaps themselves
            r"\S+: (null|true|gone|\[\]|twice|longer|shorter)",
            rf"\S+\.(gap|estimate|\w*error|bound): {_NUMBER}",
            r"\S+\.(coverage|failed|failed_imagined|diverged|level): (0|1|0\.5|as float)",
            rf"(open_loop|counterfactual|agreement)\.\S+: {_NUMBER}",
            r"level: (0|1|0\.5)",
        ]
    ),
}
"""Changes that are accepted, by artifact: a pattern of ``place: change``, and why."""
