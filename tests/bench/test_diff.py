"""Two reports of bench: what is a change, what is noise, and what breaks a limit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner

from hasn_edge.bench import diff
from hasn_edge.bench.diff import FigureLimit, diff_reports, median_ratio_interval
from hasn_edge.cli import cli
from hasn_edge.errors import InputError
from hasn_edge.evaluation.latency import Latency


@pytest.mark.slow
def test_the_interval_is_scipys_where_there_is_one_round():
    rng = np.random.default_rng(1)
    old, new = rng.gamma(9, 0.01, 60), rng.gamma(9, 0.012, 80)
    ratio = scipy.stats.bootstrap(
        (old, new),
        lambda a, b, axis=-1: np.median(b, axis=axis) / np.median(a, axis=axis),
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    found = median_ratio_interval([old.tolist()], [new.tolist()])
    assert found == pytest.approx((ratio.confidence_interval.low, ratio.confidence_interval.high), abs=0.03)


@pytest.mark.slow
def test_rounds_that_differ_widen_the_interval():
    rng = np.random.default_rng(3)
    level = [[float(x) for x in rng.normal(1.0, 0.01, 20)] for _ in range(5)]
    waves = [
        [one * factor for one in each] for each, factor in zip(level, (0.7, 1, 1.3, 0.8, 1.2), strict=True)
    ]
    narrow, wide = median_ratio_interval(level, level), median_ratio_interval(level, waves)
    assert narrow[1] - narrow[0] < 0.02
    assert wide[1] - wide[0] > 0.2


def timed(factor: float, seed: int) -> Latency:
    rng = np.random.default_rng(seed)
    return Latency(rounds=tuple(tuple(factor * rng.normal(0.1, 0.002, 8)) for _ in range(5)))


@pytest.fixture
def written(report, tmp_path):
    """Writes a report whose INT8 case has another time, PSNR and hash."""

    def write(
        name: str, factor: float = 1.0, psnr: float = 32.131, sha256: str = "0" * 64, seed: int = 0, **more
    ):
        cases = [replace(case, latency=case.latency and timed(1.0, 99)) for case in report.cases]
        quality = replace(cases[2].quality["Set5"], psnr_y_db=psnr)
        cases[2] = replace(
            cases[2],
            latency=timed(factor, seed),
            quality={"Set5": quality},
            sha256=sha256,
            facts={"graphs": False},
        )
        path = tmp_path / name
        path.write_text(json.dumps(replace(report, cases=tuple(cases), **more).to_dict()), encoding="utf-8")
        return path

    return write


@pytest.mark.slow
def test_noise_is_no_change(written):
    found = diff_reports(written("a.json", seed=1), written("b.json", seed=2))
    assert found.rows() == []
    assert (found.files, found.machine, found.gone) == ((), (), ())
    assert found.broken(FigureLimit.parse("latency>0%,latency<0%,psnr<0")) == []


@pytest.mark.slow
def test_changes_and_limits(written):
    old = written("a.json", seed=1)
    new = written("b.json", factor=1.1, psnr=32.101, sha256="f" * 64, seed=2, environment={"CPU": "Q"})
    found = diff_reports(old, new)
    by = {change.figure: change for change in found.changes if change.changed}
    assert set(by) == {"psnr", "latency"}
    assert by["psnr"].new - by["psnr"].old == pytest.approx(-0.03)
    low, high = by["latency"].interval
    assert 1.08 < low < 1.1 < high < 1.12
    assert found.files == ("int8: other bytes, SHA-256 000000000000 -> ffffffffffff",)
    assert found.machine == ("CPU P -> Q",)
    assert len(found.broken(FigureLimit.parse("psnr<-0.02,latency>5%"))) == 2
    assert found.broken(FigureLimit.parse("psnr<-0.04, latency>15%, latency>11")) == []
    assert len(found.broken(FigureLimit.parse("latency>9, psnr>0"))) == 1


@pytest.mark.slow
def test_a_case_that_is_gone_breaks_every_limit(written, report):
    old = written("a.json")
    content = json.loads(old.read_text())
    del content["cases"][1]
    content["cases"][1]["failure"] = "it did not open"
    new = old.with_name("b.json")
    new.write_text(json.dumps(content))
    found = diff_reports(old, new)
    assert found.gone == ("same", "int8")
    assert found.broken(()) == []
    assert len(found.broken(FigureLimit.parse("psnr<-1"))) == 2
    assert diff_reports(new, old).added == ("same", "int8")


def change_report(path, name, change):
    """Write a report again, with other content; return the new file."""
    content = json.loads(path.read_text())
    for case in content["cases"]:
        change(content, case)
    new = path.with_name(name)
    new.write_text(json.dumps(content))
    return new


@pytest.mark.parametrize(
    ("change", "limits", "broken"),
    [
        ({"quality": {}}, "psnr<-1", ["psnr on Set5"]),
        ({"quality": {}}, "ssim<-1,worst<-1", ["ssim on Set5", "worst on Set5"]),
        ({"latency": None}, "latency>5%", ["latency"]),
        ({"energy": None}, "energy>5%", ["energy"]),
        ({"peak_bytes": None}, "memory>5%,file>5%", ["memory"]),
        ({"quality": {}, "latency": None}, "file>5%", []),
    ],
)
def test_a_figure_that_is_gone_breaks_the_limits_about_it(written, monkeypatch, change, limits, broken):
    monkeypatch.setattr(diff, "RESAMPLES", 20)
    old = change_report(
        written("raw.json"), "a.json", lambda _, case: case.update(energy={"joules_per_frame": 0.02})
    )
    new = change_report(old, "b.json", lambda _, case: case.update(change if case["label"] == "int8" else {}))
    found, parsed = diff_reports(old, new), FigureLimit.parse(limits)
    said = [text for text in found.broken(parsed) if text.startswith("int8: ")]
    assert (
        said
        == [
            f"int8: {figure} is in the old report alone, which breaks {limit}"
            for figure, limit in zip(broken, parsed, strict=False)
        ]
        == found.broken(parsed)
    )
    (lost,) = [text for text in found.sentences() if text.startswith("int8: in the old report alone: ")]
    assert all(figure in lost for figure in broken)
    # No other case has a worst image, so that nothing is left to compare with.
    assert diff_reports(new, old).broken([one for one in parsed if one.figure != "worst"]) == []


@pytest.mark.parametrize(
    ("change", "limits", "idle"),
    [
        ({"energy": None}, "energy>5%,file>50%", "energy>5%"),
        ({"quality": {}, "latency": None}, "psnr<-1,latency>5%,memory>5%", "psnr<-1 dB, latency>5%"),
        ({"failure": "it did not open"}, "memory>5%", "memory>5%"),
    ],
)
def test_a_limit_that_compares_nothing_is_refused(written, change, limits, idle):
    """A gate that finds its figure in neither report would pass for ever."""
    old, new = (
        change_report(written("raw.json"), name, lambda _, case: case.update(change))
        for name in ("a.json", "b.json")
    )
    found = diff_reports(old, new)
    assert found.broken(()) == []
    with pytest.raises(
        InputError, match=f"no case of both a.json and b.json has what {idle} is about"
    ) as caught:
        found.broken(FigureLimit.parse(limits))
    assert "bench both with what measures it" in str(caught.value.cures)
    if "failure" in change:
        assert "failed in both: int8" in found.sentences()


def test_other_images_are_refused(written):
    """Five images against two, or others of the same number, which bicubic interpolation tells apart."""
    old = change_report(written("raw.json"), "a.json", lambda *_: None)

    def fewer(_, case):
        for quality in case["quality"].values():
            quality["images"] = 2

    with pytest.raises(InputError, match=r"set Set5 has 5 images in .*a.json and 2 images in .*b.json: "):
        diff_reports(old, change_report(old, "b.json", fewer))

    def with_bicubic(level):
        row = {"images": 5, "psnr_y_db": level, "ssim_y": 0.8, "worst_dpsnr_db": None}
        return lambda content, _: content.update(bicubic={"Set5": row})

    first = change_report(old, "c.json", with_bicubic(28.42))
    with pytest.raises(InputError, match=r"enlarges with 28.420 dB in .*c.json and .* with 28.520 dB"):
        diff_reports(first, change_report(old, "d.json", with_bicubic(28.52)))
    for level in (28.4201, None):
        diff_reports(first, change_report(old, "e.json", with_bicubic(level)))
    diff_reports(first, old)  # which has none


def test_of_several_sets_of_other_images_the_first_is_named(written):
    def of(images):
        row = dict.fromkeys(("psnr_y_db", "ssim_y", "worst_dpsnr_db"), 1.0)
        sets = {name: {**row, "images": images} for name in "hgfedcba"}
        return lambda _, case: case.update(quality=sets)

    old, new = (change_report(written("raw.json"), f"{n}.json", of(n)) for n in (5, 2))
    with pytest.raises(InputError, match="^set a has 5 images in "):
        diff_reports(old, new)


def test_what_decides_a_devices_speed_is_compared(written, monkeypatch):
    monkeypatch.setattr(diff, "RESAMPLES", 20)

    def on(mode, locked, driver, celsius):
        jetson = {"power_mode": mode, "clocks_locked": locked, "celsius.gpu": celsius}
        return {"title": "Jetson", "gpu": {"name": "Orin", "driver": driver}, "jetson": jetson}

    old = written("a.json", before=on("15W", False, "540.3.0", 41.0))
    new = written("b.json", before=on("MAXN", True, "540.4.0", 55.0), apart="8 GB hold one case alone")
    found = diff_reports(old, new)
    assert found.machine == (
        "gpu driver 540.3.0 -> 540.4.0",
        "jetson power_mode 15W -> MAXN",
        "jetson clocks_locked False -> True",
    )
    assert found.files == ("one after the other False -> True",)


def test_other_numbers_of_threads_are_named(written, monkeypatch):
    """One thread takes twice as long as two, which is no change of a file."""
    monkeypatch.setattr(diff, "RESAMPLES", 20)
    old, new = written("a.json", threads=2), written("b.json", threads=1)
    assert diff_reports(old, new).files == ("CPU threads 2 -> 1",)
    content = json.loads(new.read_text())
    del content["threads"]  # as older versions wrote it
    new.write_text(json.dumps(content))
    assert diff_reports(old, new).files == ()


@pytest.mark.parametrize("text", ["psnr", "psnr<", "fps>3", "psnr<-0.02;latency>5%", "", "latency>5%%"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(InputError, match="is no limit; expected a figure"):
        FigureLimit.parse(text)


def test_what_is_no_report_is_refused(written, tmp_path):
    good = written("a.json")
    (tmp_path / "text.json").write_text("[1]")
    with pytest.raises(InputError, match="no JSON report of bench"):
        diff_reports(good, tmp_path / "text.json")
    content = json.loads(good.read_text())
    for key, value, message in (
        ("schema", 4, "its schema is 4"),
        ("size", {"height": 9, "width": 9}, "at 9x9"),
    ):
        (tmp_path / "other.json").write_text(json.dumps({**content, key: value}))
        with pytest.raises(InputError, match=message):
            diff_reports(good, tmp_path / "other.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", None, "field `size`"),
        ("cases", [{}], r"\$\.cases\[0\]"),
        ("cases", 7, r"\$\.cases"),
        ("environment", None, "field `environment`"),
        ("busy_cores", None, "field `busy_cores`"),
        ("bicubic", {"Set5": {}}, r"\$\.bicubic"),
        ("latency", {"median_ms": 1.0, "rounds_seconds": []}, r"rounds_seconds"),
        ("latency", {"median_ms": 1.0, "rounds_seconds": [[]]}, r"rounds_seconds"),
        ("quality", None, "field `quality`"),
        ("session", None, "field `session`"),
    ],
)
def test_a_damaged_report_is_refused(written, tmp_path, key, value, message):
    """As one that was cut and mended by hand, or that another program wrote."""
    good = written("a.json")
    content = json.loads(good.read_text())
    place = content if key in content else content["cases"][1]
    place[key] = value
    if value is None:
        del place[key]
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"b\.json: no JSON report of bench \(.*{message}"):
        diff_reports(good, tmp_path / "b.json")
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="no JSON report of bench"):
        diff_reports(good, tmp_path / "b.json")


def test_a_case_that_failed_before_is_named(written):
    old = written("a.json")
    content = json.loads(old.read_text())
    content["cases"][1].update(failure="no", latency=None)
    old.write_text(json.dumps(content))
    found = diff_reports(old, written("b.json"))
    assert found.added == ("same",)
    assert "new, or failed before: same" in found.sentences()


@pytest.mark.slow
def test_the_verb_exits_with_3_and_writes_a_summary(written, tmp_path):
    old, new = written("a.json", seed=1), written("b.json", factor=1.2, seed=2)
    summary = tmp_path / "summary.md"
    arguments = ["bench", "diff", str(old), str(new), "--markdown", str(summary)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0
    table = result.stdout.partition("\n- ")[0]
    assert [line.split()[0] for line in table.splitlines()[3:] if line] == ["int8", "latency,"]
    assert max(map(len, table.splitlines())) <= 80
    assert "limits" not in summary.read_text()
    result = CliRunner().invoke(cli, [*arguments, "--fail-on", "psnr<-0.02,latency>5%"])
    assert result.exit_code == 3, result.output
    assert "int8: latency, ms 100.149 -> 120.380" in result.output
    assert "breaks latency>5%" in result.output
    text = summary.read_text()
    assert "**1 limit broken**: psnr<-0.02 dB, latency>5%" in text
    assert "| int8 | latency, ms |" in text
    assert "hierarchical bootstrap" in text
    result = CliRunner().invoke(cli, [*arguments, "--fail-on", "latency>50%"])
    assert result.exit_code == 0
    assert "**Within all limits**" in summary.read_text()
