"""The page: a gap report, and what else is known of its world, as one self-contained HTML file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmgym.evaluation.exploitation import out_of_sample
from wmgym.evaluation.findings import Speed
from wmgym.evaluation.gap_report import RANDOM, GapReport, env_name
from wmgym.evaluation.speed import MANY
from wmgym.evaluation.verdict import verdict
from wmgym.io import files
from wmgym.io.provenance import library_versions

if TYPE_CHECKING:
    from wmgym.data.policy import PolicyFn
    from wmgym.models.world import WorldModel

_HEADLINES = {
    "trust": ("Trust it", "good"),
    "trust for ranking only": ("Trust it for ranking only", "fair"),
    "do not trust": ("Do not trust it", "bad"),
}
_WORST = 5


def write_report(
    report: GapReport,
    path: str | os.PathLike[str],
    *,
    world: WorldModel | None = None,
    policies: Mapping[str, PolicyFn | None] | None = None,
    learning: Sequence[Mapping[str, float]] = (),
    cost: Mapping[str, float] | None = None,
    made_by: Mapping[str, str] | None = None,
) -> Path:
    """Write a report as one HTML file that needs no network, no server and no script.

    Args:
        report: what ``score`` returned.
        path: the file to write.
        world: the world that was scored, to film the policies in.
        policies: the policies that were scored, by name; a video shows the one that does best in imagination
            and the one with the largest gap. Without them or the world there is none.
        learning: rows of a learning curve, as training in imagination or a run logs them.
        cost: real and imagined steps, wall and CPU seconds of all that led here; None takes the report's own.
        made_by: further provenance by name, such as the command.

    Returns:
        The file's path.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        StoreError: the file cannot be written.
    """
    if not isinstance(report, GapReport):
        raise TypeError(
            f"write_report takes what wmgym.score returns, got a {type(report).__name__}; print that one"
        )
    figures = charts()
    found = report.verdict or verdict(report)
    headline, tone = _HEADLINES[found.level]
    if found.scope:
        use = "only for ranking" if found.level == "trust for ranking only" else "for"
        headline = f"Trust it {use} {found.scope}"
    videos, no_video = _videos(report, world, policies)
    page = render(
        "template.html.j2",
        report=report,
        env=env_name(report.env_id),
        verdict=found,
        headline=headline,
        tone=tone,
        facts=_facts(report),
        worst=_worst(report),
        estimates=any(s.estimate is not None and s.more_imagined_returns for s in report.scores),
        failures=any(s.failed is not None for s in report.scores),
        trained=any(s.trained_in_world for s in report.scores),
        calibrated=any(s.calibrated_on for s in report.scores),
        charts={
            "coverage": figures.coverage(report),
            "bounds": figures.bounds(report.open_loop, report.level),
            "returns": figures.returns(report),
            "open_loop": figures.open_loop(report.open_loop),
            "learning": figures.learning(learning),
        },
        videos=videos,
        no_video=no_video,
        cost=_cost(report, cost),
        speed=_speed(report.origin.speed if report.origin else None),
        provenance=_provenance(report, world, made_by or {}),
    )
    return files.write_bytes(path, page.encode())


def charts() -> Any:
    """The module that draws; ImportError that says what to install where it cannot."""
    try:
        import jinja2  # noqa: F401

        from wmgym.evaluation.report import figures
    except ModuleNotFoundError as error:
        raise ImportError(f"a page needs {error.name}: pip install 'wmgym[report]'") from error
    return figures


def render(template: str, **values: Any) -> str:
    """A page from one of the templates here, with the style sheet that all share."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=FunctionLoader(_read)
    )
    environment.filters |= {"number": number, "percent": percent, "signed": signed}
    shared = {"version": library_versions()["wmgym"], "style": _read("style.css")}
    return environment.get_template(template).render(**shared, **values)


def _videos(
    report: GapReport, world: WorldModel | None, policies: Mapping[str, PolicyFn | None] | None
) -> tuple[list[dict[str, Any]], str]:
    """What to show of each video, and why there is none."""
    own = [s for s in report.scores if s.name in (policies or {})]
    if world is None or policies is None or not own:
        return [], "There is no video: the world and its policies were not at hand when this page was made."
    from wmgym.evaluation.report.video import DrawingError, record

    best, worst = max(own, key=lambda s: s.imagined_mean), max(own, key=lambda s: abs(s.gap))
    shown = {best.name: "The best in imagination"}
    shown.setdefault(worst.name, "The largest gap")
    videos: list[dict[str, Any]] = []
    for name, title in shown.items():
        try:
            made = record(world, policies[name], report.seed)
        except DrawingError as error:  # a second try could end the process where there is no OpenGL
            return videos, f"There is no video: {error}"
        label = f"{title}, {name}: MuJoCo beside what the world imagines, with error and bound below"
        videos.append({"title": title, "policy": name, "label": label, "made": made})
    return videos, ""


def number(value: float) -> str:
    """Three or more significant digits, thousands apart, a true minus sign."""
    digits = 0 if abs(value) >= 100 or value == 0 else min(3, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """A share as a percentage with its sign."""
    return f"{100 * value:+.1f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def _read(name: str) -> str:
    return resources.files("wmgym.evaluation.report").joinpath(name).read_text("utf-8")


def _facts(report: GapReport) -> list[dict[str, str]]:
    own = [s for s in report.scores if s.name != RANDOM]
    found = [("Policies", str(len(own)), f"{report.episodes} real episodes each")]
    if own:
        best = max(own, key=lambda s: s.imagined_mean)
        found.append(("Best in imagination", _clipped(best.name), f"real return {number(best.real_mean)}"))
    if report.agreement is not None:
        rank = report.agreement.spearman
        value, ends = number(rank.value), " to ".join(map(number, rank.interval))
        found.append(("Rank correlation", value, f"Spearman, 95 % interval {ends}"))
    if own:
        gaps = [abs(s.gap) for s in own]
        found.append(
            ("Mean gap", percent(sum(gaps) / len(gaps)), f"at most {percent(max(gaps))} of the range")
        )
    inside = [s.coverage for s in out_of_sample(report) if s.coverage is not None]
    if inside:
        value = percent(sum(inside) / len(inside))
        which = "any policy" if len(inside) == len(report.scores) else "policies that did not calibrate them"
        found.append(("Inside error bounds", value, f"at least {percent(min(inside))}, of {which}"))
    return [dict(zip(("name", "value", "note"), fact, strict=True)) for fact in found]


def _worst(report: GapReport) -> list[dict[str, Any]]:
    """Single episodes whose returns differ most, as shares of the return scale."""
    means = {s.name: s.real_mean for s in report.scores}
    scale = report.scale or max(means.values()) - means.get(RANDOM, min(means.values())) or 1.0
    cases: list[dict[str, Any]] = [
        {"name": s.name, "episode": i, "real": real, "imagined": imagined, "share": (imagined - real) / scale}
        for s in report.scores
        for i, (real, imagined) in enumerate(zip(s.real_returns, s.imagined_returns, strict=False), 1)
    ]
    return sorted(cases, key=lambda case: -abs(case["share"]))[:_WORST]


def _cost(report: GapReport, cost: Mapping[str, float] | None) -> list[tuple[str, str]]:
    spent = dict(cost or {"real_steps": report.real_steps, "imagined_steps": report.imagined_steps})
    if cost is None and report.origin is not None:
        spent |= {"wall_s": report.origin.wall_s, "cpu_s": report.origin.cpu_s}
    names = {
        "real_steps": "Real steps", "imagined_steps": "Imagined steps",
        "scored_real_steps": "Real steps to score", "scored_imagined_steps": "Imagined steps to score",
        "wall_s": "Wall-clock time", "cpu_s": "CPU time",
    }  # fmt: skip
    return [
        (title, duration(spent[key]) if key.endswith("_s") else f"{spent[key]:,.0f}")
        for key, title in names.items()
        if key in spent
    ]


def _speed(speed: Speed | None) -> tuple[str, list[tuple[str, str]]]:
    """Which side is the faster one, in a sentence, and steps per second of either."""
    if speed is None:
        return "", []
    engine, said = speed.real, "the real env"
    rows = [("Real env, with its policy", speed.real)]
    if speed.physics is not None:
        engine, said = speed.physics, "MuJoCo"
        rows = [("MuJoCo's physics alone", engine), ("MuJoCo in Gymnasium, with the policy", speed.real)]
    rows += [
        ("Imagined, one env", speed.alone),
        (f"Imagined, {speed.side_by_side:,} envs, with the policy", speed.imagined),
        (f"Imagined, {MANY:,} envs", speed.many),
    ]

    def compared(rate: float, imagined: str) -> str:
        times = max(rate, engine) / max(min(rate, engine), 1e-9)
        ratio = f"{times:,.1f}" if times < 10 else f"{times:,.0f}"
        first, second = (imagined, said) if rate >= engine else (said, imagined)
        return f"{first} is {ratio} times as fast as {second}"

    alone = compared(speed.alone, "a single imagined env")
    many = compared(speed.many, f"a batch of {MANY:,} of them")
    return f"On one core, {alone}; {many}.", [(name, number(rate)) for name, rate in rows]


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _provenance(
    report: GapReport, world: WorldModel | None, made_by: Mapping[str, str]
) -> list[tuple[str, str]]:
    found = [("Env", report.env_id), ("Seed of the scores", str(report.seed))]
    if report.max_episode_steps is not None:
        found.append(("Episode limit", f"{report.max_episode_steps:,} steps"))
    if world is not None:
        found.append(("World fitted to", f"{world.provenance.steps:,} {world.provenance.source} steps"))
        found.append(("World fitted with", _versions(world.provenance.versions)))
    if report.origin is not None:
        found.append(("World's fingerprint", report.origin.world))
        found.append(("Scored with", _versions(report.origin.versions)))
    return found + list(made_by.items())


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _clipped(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"
