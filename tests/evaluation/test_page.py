"""The page of a report: whole in one file, whatever policies are named."""

from __future__ import annotations

import importlib
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

import wmgym
from tests.evaluation.reports import report
from wmgym.evaluation.findings import Speed
from wmgym.evaluation.gap_report import Origin
from wmgym.evaluation.report import figures, video
from wmgym.evaluation.report import page as page_module
from wmgym.evaluation.verdict import verdict

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "$x_1^2$ {{ 7 * 7 }} </svg></style>",
    "name " * 60, "x" * 300, "策略 \N{ROBOT FACE} \u202eδ",
)  # fmt: skip
VOID = {"meta", "link", "img", "path", "use", "rect"}


class Page(HTMLParser):
    """Elements, the text of table headers, and whether all that opened was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            if tag == "th":
                self.headers.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "th" in self.open:
            self.headers[-1] += data


def written(tmp_path: Path, **changes: object) -> str:
    return wmgym.write_report(report(**changes), tmp_path / "page.html").read_text("utf-8")  # type: ignore[arg-type]


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what a page says: its charts are most of the work."""
    monkeypatch.setattr(figures, "_svg", lambda *drawn: "")


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    rows = [{"real_steps": 10.0 * n, "return": 5.0 * n} for n in range(3)]
    text = wmgym.write_report(report(), tmp_path / "page.html", learning=rows).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "poster"):
            target = attributes.get(name) or ""
            assert not target or target.startswith(("data:", "#")), (tag, target)
    assert text.count("url(") == text.count("url(#")
    assert text.count("<svg") == 5
    assert len(text) < 500_000


def test_it_is_the_same_for_the_same_report(tmp_path: Path) -> None:
    assert written(tmp_path) == written(tmp_path)


def test_names_stay_text(tmp_path: Path) -> None:
    text = written(
        tmp_path,
        names=HOSTILE,
        trained={},
        env_id="</title><script>alert(2)</script>",
        scores={HOSTILE[0]: {"stale": True}},
    )
    page = Page(text)
    assert page.open == []
    assert {name.strip() for name in HOSTILE} <= {header.strip() for header in page.headers}
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert "49" not in page.headers[0]


def test_every_number_names_its_column_where_a_phone_shows_no_head(tmp_path: Path, no_charts: None) -> None:
    elements = Page(written(tmp_path)).elements
    heads = [attributes.get("data-head") for tag, attributes in elements if tag == "td"]
    assert len(heads) > 30
    assert [head for head in heads if not head] == []


def test_the_verdict_comes_first(tmp_path: Path, no_charts: None) -> None:
    good, bad = written(tmp_path), written(tmp_path, gaps=(0.5, -0.5, 0.5, -0.5, 0.5, -0.5))
    assert "Trust it</h1>" in good
    assert "Do not trust it</h1>" in bad
    assert all(escape(reason.text) in good for reason in verdict(report()).reasons)
    assert "Trust it for policies of this training</h1>" in written(tmp_path, lineages=1)
    limited = written(tmp_path, lineages=2, gaps=(0.06,) * 6)
    assert "Trust it only for ranking policies of these 2 trainings</h1>" in limited


def test_long_names_of_checkpoints_differ_in_charts(tmp_path: Path) -> None:
    names = [f"DynaSAC with a long description after {n},000 real steps" for n in range(1, 7)]
    text = written(tmp_path, names=names)
    assert all(f"{n},000 real steps</text>" in text for n in range(1, 7))


def test_what_cannot_be_drawn_is_said_in_a_line(
    tmp_path: Path, pendulum_world: wmgym.WorldModel, no_charts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise video.DrawingError("no <OpenGL>")

    monkeypatch.setattr(video, "record", refuse)
    policies = {"a": None}
    path = wmgym.write_report(report(), tmp_path / "page.html", world=pendulum_world, policies=policies)
    text = path.read_text("utf-8")
    assert "There is no video: no &lt;OpenGL&gt;" in text
    assert "<video" not in text
    assert "not at hand" in written(tmp_path)


def test_a_report_of_one_policy_without_bounds(tmp_path: Path) -> None:
    text = written(
        tmp_path, names=("only",), real=(5.0,), gaps=(0.1,), coverage=None, open_loop=(), level=None
    )
    assert "no error bounds" in text


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (Speed(7_000, 20_000, 15_000, 20, 4_000, 200_000),
         ("MuJoCo is 5.0 times as fast as a single imagined env", "a batch of 1,024 of them is 10 times",
          "Imagined, 20 envs, with the policy", "physics alone")),
        (Speed(100, None, 15_000, 20, 4_000, 50),
         ("a single imagined env is 40 times as fast as the real env", "the real env is 2.0 times")),
        (None, ("This report took 1 real steps",)),
    ],
)  # fmt: skip
def test_which_side_is_faster_is_said(
    tmp_path: Path, no_charts: None, speed: Speed | None, said: tuple[str, ...]
) -> None:
    text = written(tmp_path, origin=Origin("", {}, 1.0, 1.0, speed))
    assert all(part in text for part in said)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (1234567.8, "1,234,568"), (-99.5, "\N{MINUS SIGN}99.5"), (0.01234, "0.012"), (5.5, "5.50")],
)
def test_numbers_read_well(value: float, said: str) -> None:
    assert page_module.number(value) == said


def test_without_its_libraries_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'wmgym\[report\]'"):
        written(tmp_path)


@pytest.mark.slow
def test_a_browser_shows_it_whole_on_a_phone_and_on_a_desk(tmp_path: Path) -> None:
    """No message on the console, no request, nothing wider than the window, whatever the names."""
    from playwright.sync_api import sync_playwright

    rows = [{"real_steps": 10.0 * n, "return": 5.0 * n} for n in range(3)]
    path = wmgym.write_report(report(names=HOSTILE), tmp_path / "page.html", learning=rows)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in (390, 1280):
            for scheme in ("dark", "light"):
                window = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                said: list[str] = []
                asked: list[str] = []
                window.on("console", lambda message, said=said: said.append(message.text))
                window.on("pageerror", lambda error, said=said: said.append(str(error)))
                window.on("request", lambda request, asked=asked: asked.append(request.url))
                window.goto(path.as_uri())
                assert said == []
                assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
                assert window.evaluate("document.documentElement.scrollWidth") == width
                ends = "[...document.querySelectorAll('.stack td')].map(e => e.getBoundingClientRect().right)"
                assert 0 < max(window.evaluate(ends)) <= width
                ink = "getComputedStyle(document.body).color"
                assert (
                    window.evaluate(ink) == {"dark": "rgb(236, 239, 243)", "light": "rgb(22, 25, 29)"}[scheme]
                )
                window.close()
        browser.close()
