"""The report as an HTML page: it says what was measured, and needs nothing from elsewhere."""

from __future__ import annotations

import re
import sys
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from small_agents import REPORT, pole, walker

from spikerl import plots
from spikerl.energy import HARDWARE, Cost, estimate
from spikerl.errors import SpikerlError
from spikerl.evaluation import Evaluation, Side
from spikerl.operations import Operations
from spikerl.page import make_page, write_page
from spikerl.report import ConversionReport, GapReport
from spikerl.statistics import Estimate, mean, paired, share

COUNTED = Operations(
    dense=9000.0,
    effective_macs=640.0,
    effective_acs=2000.0,
    input_macs=40.0,
    updates=500.0,
    leaks=0.0,
    spikes=100.0,
)


def side(name: str, returns: list[float]) -> Side:
    return Side(
        name, tuple(returns), mean(returns), float(np.std(returns)), 200.0, 9876.5, 0.125, 0.5
    )


def evaluation(*, alone: bool = False, episodes: int = 5) -> Evaluation:
    theirs = [410.0, 480.5, 500.0, 300.25, 390.0][:episodes]
    ours = [405.0, 500.0, 500.0, 280.0, 371.5][:episodes]
    return Evaluation(
        environment="CartPole-v1",
        backend="nest",
        sim_steps=16,
        seeds=tuple(range(7, 7 + episodes)),
        original=None if alone else side("original", theirs),
        spiking=side("spiking", ours),
        agreement=None if alone else share([True] * 90 + [False] * 10),
        action_error=None,
        rates=(0.0625,),
        synaptic_operations=12345.6,
        paired=None if alone else paired(ours, theirs),
        cost=Cost(
            footprint=4321,
            connection_sparsity=0.0,
            activation_sparsity=0.9375,
            operations=COUNTED,
            original_macs=None if alone else 1000,
            energy=tuple(estimate(COUNTED, x, None if alone else 1000) for x in HARDWARE.values()),
        ),
    )


CONTINUOUS = replace(
    REPORT,
    agreement=None,
    action_error=Estimate(1.52, 1.4, 1.6, 500, "bootstrap"),
    by_steps={16: Estimate(1.52, 1.4, 1.6, 500, "bootstrap")},
    target=1.0,
    coarse=None,
    gaps=None,
    value_error=0.25,
    steps_needed=16,
)


class Page(HTMLParser):
    """The tags, addresses and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def images(self) -> dict[str, str]:
        found = {}
        for tag, attrs in self.tags:
            if tag == "img":
                head, _, data = attrs["src"].partition(",")
                assert head == "data:image/svg+xml;base64"
                found[attrs["alt"]] = b64decode(data).decode()
        return found


def words_of(svg: str) -> list[str]:
    """The texts of a plot; also: it is XML, and all it refers to is in itself."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] == "href":
                assert value.startswith("#")
            assert "url(http" not in value
    return [element.text for element in root.iter() if element.tag.endswith("}text")]  # type: ignore[misc]


def test_the_page_says_what_was_measured() -> None:
    page = Page(make_page(pole(), evaluation()))
    assert page.open == []
    for words in (
        "CartPole-v1",
        "A spiking network of 4-8-2 neurons, 16 steps per decision.",
        "Agreement 97.0 % 95.1 to 98.3 %; 500 held-out observations",
        "Steps for 99 % agreement T > 16",
        "Return on nest 411.3 original: 416.1",
        "Difference, seed by seed -4.",
        "Spiking less original, seed by seed: -4.85, 95 % interval",
        "Synaptic operations 12,346",
        "A decision takes 100 spikes, 2,000 accumulates and 640 multiply-accumulates of the input, "
        "of 9,000 synaptic operations if all were active. The original: 1,000 MACs.",
        "footprint 4,321 bytes; median latency here 0.125 ms.",
        # 40 x 4.6 + 2,000 x 0.9 + 500 x 1.8 + 100 x 0.9 pJ; 1,000 x 4.6 pJ
        "cmos45-float32 2.97 nJ 4.6 nJ \u2013 Horowitz",
        # 2,000 x 23.6 + 500 x 81 + 100 x 1.7 pJ
        "loihi 87.9 nJ \u2013 input Davies",
        "Energies are estimates, not measurements",
        "a sentence for the user: \u00e9\u03b8",
        "spiking (nest, T = 16) 411.3",
        "5 episodes each, seeds 7 to 11",
        "sign flips, exact",
        "Agreement on the states visited: 90.0 %, 95 % interval 82.6 to 94.5 %.",
        "0 8 0.125 0.062 1 2",
        "1.0 % of the observations have a smaller one",
        "encoder ConstantCurrent",
        "decoder FinalPotential, Categorical",
        f"SHA-256 of the network {pole().network.fingerprint()}",
    ):
        assert words in page.text
    assert list(page.images) == [
        "Plot: Agreement by steps",
        "Plot: Action gaps and resolution",
        "Plot: Returns",
        "Plot: Firing rates",
    ]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = make_page(pole(), evaluation())
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "form"})
    for _, attrs in page.tags:
        assert not {"href", "srcset", "background"} & set(attrs)
        assert attrs.get("src", "data:").startswith("data:")
    assert not re.search(r"url\(|@import|https?:", text)
    for svg in page.images.values():
        assert words_of(svg)


def test_the_plots_show_their_figures() -> None:
    images = Page(make_page(pole(), evaluation())).images
    assert {"4", "16", "steps per decision, T", "agreement, %"} <= set(
        words_of(images["Plot: Agreement by steps"])
    )
    assert "resolution 0.75" in words_of(images["Plot: Action gaps and resolution"])
    assert {"original", "spiking"} <= set(words_of(images["Plot: Returns"]))
    assert {"0.125", "0.062", "held out", "acting"} <= set(words_of(images["Plot: Firing rates"]))


def test_the_same_figures_give_the_same_page() -> None:
    assert make_page(pole(), evaluation()) == make_page(pole(), evaluation())


def test_continuous_actions_have_an_error_and_no_gaps() -> None:
    agent = replace(walker(), report=CONTINUOUS)
    page = Page(make_page(agent, None))
    assert "Action error 1.52 % 1.4 to 1.6 %; 500 held-out" in page.text
    assert "Steps for an action error of 1 % T = 16" in page.text
    assert "None were played: the environment is not known here." in page.text
    assert list(page.images) == ["Plot: Action error by steps", "Plot: Firing rates"]
    assert "acting" not in words_of(page.images["Plot: Firing rates"])


def test_a_single_episode_and_a_policy_alone_have_a_page() -> None:
    agent = replace(pole(), provenance={})
    one = Page(make_page(agent, evaluation(episodes=1)))
    assert "nan" not in one.text
    alone = Page(make_page(pole(), evaluation(alone=True)))
    assert "Difference" not in alone.text
    assert "cmos45-float32 2.97 nJ \u2013 \u2013 Horowitz" in alone.text
    assert "original" not in words_of(alone.images["Plot: Returns"])


def test_what_comes_from_a_file_is_no_part_of_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    agent = replace(
        pole(),
        provenance={"source": {"algorithm": evil}, evil: [evil]},
        report=replace(REPORT, warnings=(evil,)),
    )
    page = Page(make_page(agent, replace(evaluation(), environment=evil, backend=evil)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 5


def test_an_agent_without_a_report_has_no_page() -> None:
    with pytest.raises(SpikerlError, match="has no report"):
        make_page(replace(pole(), report=None), None)


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    write_page(pole(), None, tmp_path / "page.html")
    assert Page((tmp_path / "page.html").read_text("utf-8")).text
    with pytest.raises(SpikerlError, match="cannot be written: Is a directory"):
        write_page(pole(), None, tmp_path)


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_what_is_missing_is_named_with_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SpikerlError, match=rf"{name}; install it: pip install 'spikerl\[plots\]'"):
        make_page(pole(), None)


def test_gaps_below_the_resolution_stand_out() -> None:
    svg = plots.gaps(GapReport(edges=(1.0, 2.0, 4.0, 8.0), counts=(1, 2, 3), resolution=4.0))
    colours = re.findall(rf"({plots.MARK}|{plots.SPIKING})", svg.partition("axis_1")[0])
    assert colours == [plots.MARK, plots.MARK, plots.SPIKING]


def test_drawing_leaves_the_programs_own_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.by_steps(REPORT)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("report", [REPORT, CONTINUOUS])
def test_the_aim_is_drawn(report: ConversionReport) -> None:
    words = " ".join(words_of(plots.by_steps(report)))
    assert f"{100 * report.target:g} %" in words or "1 %" in words
