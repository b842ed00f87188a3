"""A build that searches: what it leaves on disk gives the same graph without searching."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import hasn_edge
from hasn_edge.cli import cli
from hasn_edge.errors import HasnEdgeError, UnsupportedError, VerificationError
from hasn_edge.images.arrays import to_tensor
from hasn_edge.images.codec import read_image, write_image
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.pipeline import placement
from hasn_edge.pipeline.acceptance import Acceptance
from hasn_edge.pipeline.context import BuildOptions, load_context
from hasn_edge.pipeline.costs import TargetCost
from hasn_edge.pipeline.placement import (
    describe,
    draw_curve,
    measure_costs,
    measure_sensitivity,
    sensitivity_page,
    sensitivity_rows,
    spend_less,
    write_placement,
)
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import ignore
from hasn_edge.quantize import search, sensitivity
from hasn_edge.quantize.recipe import QuantRecipe, Saving, load_quant_recipe
from hasn_edge.quantize.search import Group, Loss, Measurement, PartLoss, Placement
from hasn_edge.spec import ModelSpec
from tests.support.samples import ADA


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_checkpoint(folder / "tiny.safetensors", HASN(ModelSpec(features=8, blocks=1)))
    pixels = read_image(Path(__file__).parents[2] / "calibration" / "heldout-drawn" / "HR" / "text-2.png")
    for number in range(2):
        write_image(folder / "mine" / f"{number}.png", pixels[:96, : 96 + 4 * number])
    return folder


@pytest.mark.slow
def test_the_recipe_of_a_search_gives_its_graph(folder, tmp_path, monkeypatch):
    runs, run = [], search.Meter._run
    monkeypatch.setattr(search.Meter, "_run", lambda meter, chosen: runs.append(chosen) or run(meter, chosen))
    options = {"precision": "int8", "force": True, "target": "cpu", "evaluation": folder / "mine"}
    model = folder / "tiny.safetensors"
    built = hasn_edge.build(model, max_drop=0.001, output=tmp_path / "a", **options)
    assert " of the MACs in INT8, mine " in built.summary[0]
    (artifact,) = built.artifacts
    recipe = tmp_path / "a" / "tiny-int8-search.toml"
    assert min(read_image(recipe.with_suffix(".png")).shape[:2]) > 300
    loaded = load_quant_recipe(recipe)
    assert (loaded.budget_db, loaded.max_drop_worst) == (0.001, 0.005)
    assert artifact.graph.recipe == loaded.to_dict()
    assert set(artifact.graph.ranges.values) == set(artifact.graph.int8_convolutions)
    (part,) = artifact.details.measured.parts
    assert (part.set, part.images, part.budget_db) == ("mine", 2, 0.001)
    again = hasn_edge.build(model, recipe=recipe, output=tmp_path / "b", **options)
    assert again.artifacts[0].path.read_bytes() == artifact.path.read_bytes()
    # Another search of the same network measures nothing again.
    measured = len(runs)
    assert measured > 0
    hasn_edge.build(model, max_drop=0.001, output=tmp_path / "a", **options)
    assert len(runs) == measured
    assert recipe.read_text(encoding="utf-8").endswith('calibration = "patches"\n')


@pytest.mark.slow
def test_the_recipe_of_a_search_names_the_images_that_ranges_were_measured_on(folder, tmp_path, monkeypatch):
    options = {"precision": "int8", "force": True, "target": "cpu", "evaluation": folder / "mine"}
    model = folder / "tiny.safetensors"
    monkeypatch.chdir(folder)  # a recipe is read from anywhere
    built = hasn_edge.build(model, max_drop=0.5, output=tmp_path / "a", calibration="mine", **options)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "a" / "tiny-int8-search.toml"
    again = hasn_edge.build(model, recipe=recipe, output=tmp_path / "b", **options)
    assert again.artifacts[0].graph.ranges == built.artifacts[0].graph.ranges
    assert again.artifacts[0].path.read_bytes() == built.artifacts[0].path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("least", [1, 2])
def test_costs_are_of_the_files_that_a_build_makes(folder, tmp_path, monkeypatch, least):
    """Of as many images at a time: TensorRT refuses a graph of one for an engine of two."""

    def cost_of(variants, options, target, *rest):
        cost = TargetCost(variants, target, rest[0], Saving.BYTES)
        assert cost.base > 0
        raise VerificationError(f"{variants.context.batch}: {cost.words(1e6)}")

    monkeypatch.setattr(placement, "target_cost", cost_of)
    (tmp_path / "two.toml").write_text(
        'runtime = "rtx"\ncompute_capabilities = ["8.6"]\n[shapes]\n'
        f"min = [{least}, 3, 32, 32]\nopt = [2, 3, 32, 32]\nmax = [2, 3, 32, 32]\n"
    )
    options = BuildOptions(
        model=folder / "tiny.safetensors", precision="int8", target=tmp_path / "two.toml", output=tmp_path
    )
    with pytest.raises(VerificationError, match=rf"\({least}, 2\): 1\.0 MB for 2 images"):
        measure_costs(options, ignore)


@pytest.mark.parametrize(
    ("target", "size", "error"),
    [
        ("rtx", (8, 8), "tiny takes no less than 15x15 pixels, and 8x8 was asked for"),
        ("cpu", (8, 8), "tiny takes no less than 15x15 pixels, and 8x8 was asked for"),
        ("orin-nano", None, "TensorRT compiles for the GPU that it runs on: the GPU here is .* RTX 4090"),
    ],
)
def test_what_no_build_makes_is_not_measured(folder, tmp_path, monkeypatch, target, size, error):
    monkeypatch.setattr(placement, "gpu_facts", lambda: ADA)
    options = BuildOptions(
        model=folder / "tiny.safetensors", precision="int8", target=target, size=size, output=tmp_path
    )
    with pytest.raises(HasnEdgeError, match=error):
        measure_costs(options, ignore)


@pytest.mark.slow
def test_what_adapted_weights_lost_themselves_counts(folder, tmp_path):
    """The reference is scikit-image's luma of both networks in PyTorch."""
    from skimage.color import rgb2ycbcr

    recipe = tmp_path / "stem.toml"
    recipe.write_text('inherit = false\nquantize = ["conv_1"]\n')
    context = load_context(
        folder / "tiny.safetensors",
        recipe=recipe,
        calibration=folder / "mine",
        evaluation=folder / "mine",
        progress=ignore,
    )
    began, model = context.checkpoint.model(), context.checkpoint.model()
    with torch.no_grad():
        model.upsampler[0].bias += 0.02
    save_checkpoint(tmp_path / "adapted.safetensors", model)
    checkpoint = load_checkpoint(tmp_path / "adapted.safetensors")
    adapted = Variants(replace(context, checkpoint=checkpoint), ignore)
    adapted.acceptance = Variants(context, ignore).acceptance
    (group,), meter = measure_sensitivity(adapted, None, tmp_path, ignore, refuse=True)

    def error(network, pair) -> float:
        with torch.no_grad():
            y_CHW = network(torch.from_numpy(to_tensor(pair.lr())))[0].clamp(0, 1).double().numpy()
        luma = [rgb2ycbcr(each)[4:-4, 4:-4, 0] for each in (y_CHW.transpose(1, 2, 0), pair.hr() / 255)]
        return float(np.square(luma[0] - luma[1]).mean())

    drops = [10 * np.log10(error(model, pair) / error(began, pair)) for pair in context.held_out[0]]
    assert abs(np.mean(drops)) > 0.01
    worst = context.held_out[0].pairs[int(np.argmax(drops))]
    nothing, _ = meter.measure([])
    assert nothing.parts == (
        ("mine", pytest.approx(np.mean(drops), abs=1e-3), pytest.approx(max(drops), abs=1e-3), worst.name),
    )
    exporter, ranges = adapted.int8
    alone = search.Meter(exporter.fp32(), ranges, context.recipe, context.held_out, tmp_path)
    assert meter.floor == alone.floor, "what INT8 adds is predicted from the graph's own"
    assert alone.measure([])[0].mean == 0
    assert group.loss.mean == pytest.approx(alone.measure(["conv_1"])[0].mean + nothing.mean, abs=1e-9)
    assert len(list(tmp_path.glob("placement-*.json"))) == 2


def test_an_attempt_that_misses_the_budget_is_followed_by_a_smaller_one():
    spent: list[float] = []

    def attempt(spend: float) -> str:
        spent.append(spend)
        if spend > 0.8:
            raise VerificationError("over the budget")
        return "built"

    assert spend_less(attempt) == "built"
    assert spent == [0.9, 0.7]
    with pytest.raises(VerificationError, match="never"):
        spend_less(lambda spend: (_ for _ in ()).throw(VerificationError("never")))


@pytest.mark.slow
def test_attempts_share_their_measurements_and_advise_no_budget_that_was_tried(folder, tmp_path, monkeypatch):
    meters, missed = [], []

    class Counted(search.Meter):
        def __init__(self, *given, **more):
            super().__init__(*given, **more)
            meters.append(self)

    def check(self, candidate, *, advice, **rest):
        missed.append(candidate)
        raise VerificationError("over the budget", *advice()[1])

    monkeypatch.setattr(search, "Meter", Counted)
    monkeypatch.setattr(Acceptance, "check", check)
    monkeypatch.setattr(sensitivity, "sensitivity", None)  # costly, and the search knows more
    options = {"precision": "int8", "force": True, "target": "cpu", "evaluation": folder / "mine"}
    with pytest.raises(VerificationError) as info:
        hasn_edge.build(folder / "tiny.safetensors", max_drop=0.001, output=tmp_path, **options)
    assert (len(meters), len(missed)) == (1, 3)
    assert [str(cure) for cure in info.value.cures] == ["allow a larger drop", "build FP16"]


def test_a_budget_that_is_no_number_of_db_is_refused(folder, tmp_path):
    model = folder / "tiny.safetensors"
    with pytest.raises(UnsupportedError, match="max_drop is -1; expected a number of dB above 0"):
        hasn_edge.build(model, precision="int8", max_drop=-1, output=tmp_path)
    with pytest.raises(UnsupportedError, match="only INT8 takes max_drop; the precision asked for is fp16"):
        hasn_edge.build(model, precision="fp16", max_drop=0.1, output=tmp_path)


@pytest.mark.slow
def test_the_verb_prints_and_writes_what_each_group_costs(folder, tmp_path):
    page = tmp_path / "costs.html"
    arguments = ["sensitivity", "--model", folder / "tiny.safetensors", "--evaluation", folder / "mine"]
    result = CliRunner().invoke(cli, [*map(str, arguments), "--html", str(page), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "block_1.f*.conv" in result.output
    assert "calibration: 44 patches" in result.output
    assert "<td>block_1.esa.*</td>" in page.read_text(encoding="utf-8")
    assert [path.parent.name for path in (tmp_path / "out").rglob("placement-*.json")] == ["cache"]


def test_the_costliest_group_comes_first():
    groups = [
        Group(
            name=name,
            convolutions=(name,),
            gain=gain,
            loss=Loss(parts=(PartLoss("a", loss, 2 * loss, "x"), PartLoss("<b>", 0.0, 0.0, "y"))),
            errors=(1.0,),
        )
        for name, gain, loss in (("cheap", 0.5, 0.001), ("dear", 0.25, 0.1))
    ]
    heading, *rows = sensitivity_rows(groups)
    assert rows == [
        ("dear", "25.0%", "0.1000", "0.0000", "0.2000", "0.0000"),
        ("cheap", "50.0%", "0.0010", "0.0000", "0.0020", "0.0000"),
    ]
    assert len(heading) == 6
    page = sensitivity_page(groups, "title")
    assert "&lt;b&gt;" in page
    assert "exact Q/DQ arithmetic against FP32; PSNR-Y of outputs that are not rounded" in page


def test_a_search_says_which_image_kept_it_from_more(tmp_path):
    def point(names: tuple[str, ...], gain: float, mean: float, worst: float) -> Measurement:
        parts = (PartLoss("shipped", mean, mean, "cat"), PartLoss("drawn", mean / 2, worst, "page-3"))
        return Measurement(groups=names, gain=gain, loss=Loss(parts=parts))

    chosen = point(("a",), 0.5, 0.01, 0.05)
    further = (point(("a", "b"), 0.75, 0.02, 0.2), point(("a", "b", "c"), 1.0, 0.03, 0.3))
    groups = tuple(
        Group(name=name, convolutions=(name,), gain=0.25, loss=chosen.loss, errors=(1.0,)) for name in "abc"
    )
    recipe = QuantRecipe(quantize=("a",), budget_db=0.05)
    found = Placement(groups=groups, points=(chosen, *further), chosen=chosen, recipe=recipe, spend=0.8)
    notes = describe(found)
    assert "(worst: drawn page-3 -0.0500); 3 placements measured" in notes[0]
    assert notes[1] == (
        "search: 75.0% of the MACs in INT8 would lose 0.0200 dB on average (limit 0.0400) and "
        "0.2000 on one image, drawn page-3 (limit 0.2000)"
    )
    assert "would lose" not in " ".join(describe(replace(found, points=(chosen,))))
    assert draw_curve(found).startswith(b"\x89PNG")
    files = write_placement(found, tmp_path, "net")
    assert [path.suffix for path in files] == [".toml", ".html", ".png"]
    page = files[1].read_text(encoding="utf-8")
    assert notes[1] in page
    assert base64.b64encode(files[2].read_bytes()[:300]).decode() in page
    assert page.count("<tr>") == 4


@pytest.mark.slow
def test_own_images_take_the_place_of_those_that_ship(folder, tmp_path):
    recipe = tmp_path / "strict.toml"
    recipe.write_text('observer = "percentile"\npercentile = 60.0\nbudget_db = 0.0\n')
    with pytest.raises(VerificationError, match=r"on 2 held-out images \(text\)"):
        hasn_edge.build(
            folder / "tiny.safetensors",
            precision="int8",
            force=True,
            target="cpu",
            recipe=recipe,
            evaluation=f"text={folder / 'mine'}",
            output=tmp_path / "out",
        )
