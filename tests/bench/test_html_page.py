"""The page of a benchmark: what it states, and that a browser shows it."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from hasn_edge.bench.benchmark import run_benchmark
from hasn_edge.bench.case_process import Case
from hasn_edge.bench.evidence import CaseEvidence, collect_evidence
from hasn_edge.bench.html_page import html_page
from hasn_edge.bench.measure import Sustained
from hasn_edge.bench.options import BenchOptions
from hasn_edge.data.pairs import EvalSet, Pair
from hasn_edge.evaluation.evaluate import ImageScore, Scores
from hasn_edge.evaluation.latency import Latency
from hasn_edge.images.codec import read_image, write_image
from hasn_edge.quantize.layer_drift import LayerDrift
from tests.support.bench_rig import make_row
from tests.support.live_fixtures import chromium

__all__ = ["chromium"]

LAYERS = (
    LayerDrift(name="conv_1", sqnr_db=None, int8=False),
    LayerDrift(
        name="block_1.g.conv<x>", sqnr_db=31.25, int8=True, weight_peak=0.5, weight_clipped=0.004,
        input_peak=3.0, input_range=2.0,
    ),
)  # fmt: skip


@pytest.fixture
def scored(tmp_path):
    """A set of four images, their scores as FP32, and as a case that is wrong in one place of each."""
    rng = np.random.default_rng(0)
    pairs, before, after = [], [], []
    for index, off in enumerate((9, 40, 0, 20)):
        pixels = rng.integers(60, 180, (160, 132, 3), dtype=np.uint8)
        write_image(tmp_path / f"{index}.png", pixels)
        pairs.append(Pair(name=str(index), scale=4, hr_path=tmp_path / f"{index}.png"))
        other = pixels.copy()
        other[120:136, 100:116] += np.uint8(off)
        before.append(ImageScore(name=str(index), psnr_y=40.0, ssim_y=0.99, output=pixels))
        after.append(ImageScore(name=str(index), psnr_y=40.0 - off, ssim_y=0.9, output=other))
    images = EvalSet(name="Set", scale=4, pairs=tuple(pairs))
    return images, *(Scores(name="Set", images=tuple(one), border=4) for one in (before, after))


def test_worst_crops_are_where_the_case_is_wrong(scored, tmp_path):
    images, before, after = scored
    case = Case(label="int8", precision="int8")
    crops = collect_evidence(case, [images], [before], [after], lambda step: None).crops
    assert [one.image for one in crops] == ["1", "3", "0"], "worst first; what is equal is not shown"
    first = crops[0]
    assert first.drift.dpsnr == pytest.approx(-40)
    assert (first.top % 4, first.left % 4) == (0, 0)
    decoded = {}
    for name, png in first.pngs.items():
        (tmp_path / "part.png").write_bytes(png)
        decoded[name] = read_image(tmp_path / "part.png")
    window = np.s_[first.top : first.top + 96, first.left : first.left + 96]
    assert (decoded["truth"] == images.pairs[1].hr()[window]).all()
    assert (decoded["case"] == after.images[1].output[window]).all()
    assert first.magnified == 4, "40 times 4 is below 255, times 8 is not"
    assert decoded["difference"].max() == 160
    assert (decoded["difference"] > 0).sum() == 3 * 16 * 16, "all of what is wrong is inside"
    low = images.pairs[1].lr()[first.top // 4 :, first.left // 4 :]
    assert (decoded["low"][::4, ::4] == low[:24, :24]).all()


def test_fp32_and_the_first_case_have_no_crops(scored):
    images, before, after = scored
    one = collect_evidence(Case(label="x"), [images], [before], [after], lambda step: None)
    first = collect_evidence(Case(label="x", precision="int8"), [images], [], [before], lambda step: None)
    assert (one.crops, first.crops) == ([], [])
    tiles = Case(label="x", tile=32)
    assert collect_evidence(tiles, [images], [before], [after], lambda step: None).crops


@pytest.fixture
def page_report(report, scored):
    images, before, after = scored
    case = Case(label="int8", precision="int8")
    found = collect_evidence(case, [images], [before], [after], lambda step: None)
    evidence = {"int8": CaseEvidence(crops=found.crops, layers=LAYERS)}
    return replace(report, evidence=evidence, command='bench --data "<Set5>"')


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def test_the_page_states_what_the_report_states(page_report):
    page = html_page(page_report)
    (data,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data) == json.loads(json.dumps(page_report.to_dict()))
    assert json.loads(data)["cases"][2]["layers"][1]["sqnr_db"] == 31.25
    text = text_of(page)
    for figure in ("32.181", "-0.050", "-0.091", "butterfly", "358.1", "26.637", 'bench --data "<Set5>"'):
        assert figure in text
    # p50, p90 and p99 of 0.1, 0.3, 0.2, 0.4 and 0.5 seconds, linearly interpolated
    for figure in ("300", "460", "496"):
        assert f">{figure}<" in page
    assert "block_1.g.conv<x>: range 2, largest value 3" in html.unescape(page)
    assert "0.40" in text, "0.004 of the weights are clipped, in percent"
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is loaded from elsewhere"


def test_the_legend_names_what_was_timed(page_report):
    def legend(page: str) -> list[str]:
        return re.findall(r"</i>(\w+)</li>", page)

    assert legend(html_page(page_report)) == ["FP32", "INT8"]
    only = tuple(case for case in page_report.cases if case.precision == "fp32" or case.latency is None)
    assert {case.precision for case in only} == {"fp32", "int8"}, "one that was not timed"
    assert legend(html_page(replace(page_report, cases=only))) == ["FP32"]
    half = replace(page_report.cases[2], label="half", precision="fp16")
    assert legend(html_page(replace(page_report, cases=(half, *only)))) == ["FP32", "FP16"]
    openvino = [replace(half, label=name, precision=name) for name in ("bf16", "int8 and bf16")]
    assert legend(html_page(replace(page_report, cases=(*openvino, *only)))) == ["FP32", "BF16", "INT8"]


@pytest.mark.parametrize(("more", "points"), [(0.0002, 1), (0.002, 2)])
def test_the_line_of_the_best_joins_no_difference_that_the_table_does_not_show(page_report, more, points):
    quick, slow = sorted(
        (case for case in page_report.cases if case.latency), key=lambda case: case.latency.median_ms
    )[:2]
    name = next(iter(quick.quality))
    level = {quick.label: 30.0, slow.label: 30.0 + more}
    cases = tuple(
        replace(case, quality={name: replace(quick.quality[name], psnr_y_db=level[case.label])})
        for case in page_report.cases
        if case.label in level
    )
    (path,) = re.findall(r'class="line front" points="([^"]*)"', html_page(replace(page_report, cases=cases)))
    assert len(path.split()) == points


@pytest.mark.parametrize(("equal", "shown"), [(1, 1), (3, 0)])
def test_images_that_are_reproduced_exactly_have_no_place_in_the_plot(page_report, equal, shown):
    """Images of one colour, for which no decibels are large enough."""
    exact = {"Set5": replace(page_report.cases[0].quality["Set5"], psnr_y_db=math.inf)}
    cases = [replace(case, quality=exact) for case in page_report.cases[:equal]]
    page = html_page(replace(page_report, cases=(*cases, *page_report.cases[equal:])))
    assert page.count("Quality against time") == shown
    assert page.count("<td>inf</td>") == equal
    assert len(re.findall(r'<g class="dot', page)) == 3 - equal


def test_a_file_alone_is_not_called_fp32(page_report):
    """Where its network is unknown, the first file is what the others are compared with."""
    text = text_of(html_page(replace(page_report, own_reference=True)))
    assert "dB against eager; at x" in text
    assert "dB against FP32" not in text
    assert "dB against FP32; at x" in text_of(html_page(page_report))


def test_tiles_have_a_part_of_the_page(page_report):
    tiled = make_row("anything", tile=64, quality=page_report.cases[2].quality)
    text = text_of(html_page(replace(page_report, cases=(*page_report.cases, tiled))))
    assert "anything: -0.050 dB on Set5, worst image butterfly -0.091 dB." in text
    assert " Tiles " not in text_of(html_page(page_report))


def test_a_report_without_evidence_has_a_page(report, tmp_path):
    report.write_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "worst crops" not in page
    assert text_of(page).count("32.181") >= 3


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_a_browser_shows_it(page_report, tmp_path, chromium, width, scheme):
    page_report.write_html(tmp_path / "page.html")
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda one: problems.append(one.url) if one.url.startswith("http") else None)
    page.goto((tmp_path / "page.html").as_uri())
    sizes = page.evaluate("[...document.images].map((one) => [one.naturalWidth, one.naturalHeight])")
    assert len(sizes) == 3 * 7
    assert {tuple(size) for size in sizes} == {(96, 96)}
    assert page.evaluate("document.documentElement.scrollWidth") == width, "only tables scroll sideways"
    slider = page.locator(".compare input").first
    slider.fill("25")
    clip = "(one) => getComputedStyle(one.parentElement.querySelectorAll('img')[1]).clipPath"
    assert slider.evaluate(clip) == "inset(0px 0px 0px 25%)"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(244, 246, 247)"
    assert light == (scheme == "light")
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert problems == []
    page.close()


@pytest.mark.slow
def test_a_benchmark_collects_evidence_when_asked(tmp_path, rig):
    board = rig.board
    from tests.support.bench_rig import InProcess

    report = run_benchmark(
        BenchOptions(artifacts=[rig.engine], device="jetson", evidence=True, tile=32),
        board=lambda kind: board,
        worker=lambda case: InProcess(case, rig),
        free_bytes=lambda gpu: 64 << 30,
    )
    assert list(report.evidence) == [case.label for case in report.cases]
    assert report.evidence[report.cases[0].label].artifact is not None


def test_times_of_many_seconds_have_no_exponent(report):
    slow = Latency(rounds=((23.4567,) * 3,))
    sustained = Sustained(minutes=1, latency=slow, energy=None)
    one = replace(report.cases[0], latency=slow, sustained=sustained)
    page = html_page(replace(report, cases=(one,)))
    assert "e+0" not in re.sub("<script.*?</script>", "", page, flags=re.DOTALL)
    assert "Ship eager: 23457 ms a frame" in page
    assert page.count("<td>23457</td>") == 3
    # Three frames are three points, over all of the run.
    (points,) = re.findall(r'"line a" points="([^"]*)"', page)
    assert [point.split(",")[0] for point in points.split()] == ["137.7", "285.0", "432.3"]
