"""Builds that adapt their weights: never worse than the start, resumed exactly, with provenance."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import hasn_edge
from hasn_edge.cli import cli
from hasn_edge.data.pairs import held_out_sets
from hasn_edge.errors import OutputError, UnsupportedError
from hasn_edge.files import file_sha256
from hasn_edge.images.codec import read_image, write_image
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.pipeline.context import BuildOptions, load_context
from hasn_edge.pipeline.finetune import Adapted, Stopped, _Run, finetune
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import ignore
from hasn_edge.quantize import fake_quant
from hasn_edge.spec import ModelSpec

DEFAULTS = dict(fake_quant.TuneSettings.__init__.__kwdefaults__)

RECIPE = """
inherit = false
observer = "percentile"
percentile = 97.0
equalize = 0.5
rounding = "compensated"
quantize = ["conv_1", "upsampler.0"]
budget_db = 9.0
"""
"""Cuts off so much that INT8 loses far more than rounding costs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network that repeats pixels, images, and a recipe that is bad for both."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = HASN(ModelSpec(features=8, blocks=1))
    with torch.no_grad():
        for conv in (model.conv_1, model.conv_2, model.upsampler[0], model.block_1.cab.cab[2]):
            conv.weight.zero_()
            conv.bias.zero_()
        for color in range(3):
            model.conv_1.weight[color, color, 1, 1] = 1
            model.upsampler[0].weight[16 * color : 16 * color + 16, color, 1, 1] = 1
    save_checkpoint(folder / "tiny.safetensors", model)
    shipped = Path(__file__).parents[2] / "calibration" / "heldout" / "HR"
    for name in ("coffee-0", "rocket-0"):
        pixels = read_image(shipped / f"{name}.png")
        write_image(folder / "mine" / f"{name}.png", pixels[:128, :128])
    (folder / "narrow.toml").write_text(RECIPE)
    return folder


def options_of(folder: Path, **more: object) -> dict[str, object]:
    given = {"calibration": folder / "mine", "evaluation": folder / "mine", "recipe": folder / "narrow.toml"}
    return {"precision": "int8", "force": True, "target": "cpu", **given, **more}


def variants_of(folder: Path, progress=ignore) -> Variants:
    options = options_of(folder)
    given = {name: options[name] for name in ("calibration", "evaluation", "recipe", "force")}
    return Variants(load_context(folder / "tiny.safetensors", progress=progress, **given), progress)


class Ticks:
    """A clock that goes on by ten seconds each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


@pytest.fixture(autouse=True)
def _slow_weights(monkeypatch):
    """Let ranges and factors do the work: the few weights of this network would overshoot."""
    values = {**DEFAULTS, "rate": 1e-7, "warmup": 1}
    monkeypatch.setattr(fake_quant.TuneSettings.__init__, "__kwdefaults__", values)
    monkeypatch.setattr(fake_quant, "RANGE_GAIN", 2e4)


@pytest.mark.slow
def test_adapted_weights_are_published_with_the_graph_that_is_made_of_them(folder, tmp_path):
    model = folder / "tiny.safetensors"
    plain = hasn_edge.build(model, output=tmp_path / "plain", **options_of(folder)).artifacts[0]
    arguments = ["build", "--precision", "int8", "--model", str(model), "--target", "cpu", "--force"]
    for name in ("calibration", "evaluation"):
        arguments += [f"--{name}", str(folder / "mine")]
    arguments += ["--recipe", str(folder / "narrow.toml"), "--finetune", "2s", "-o", str(tmp_path / "a")]
    done = CliRunner().invoke(cli, [*arguments, "--json", "-"])
    assert done.exit_code == 0, done.output
    built = json.loads(done.stdout)
    path = tmp_path / "a" / "tiny-finetuned.safetensors"
    assert built["artifacts"][0]["path"] == str(tmp_path / "a" / "tiny-finetuned-int8-cpu.onnx")
    assert built["summary"][0].startswith("finetune: ")
    assert built["beside"] == [str(path)]
    assert not list((tmp_path / "a" / "cache").glob("finetune-*"))
    artifact = hasn_edge.artifact.load_artifact(built["artifacts"][0]["path"])
    assert artifact.source == file_sha256(path)
    before, after = (each.details.measured.held_out for each in (plain, artifact))
    assert after.dpsnr_db > before.dpsnr_db
    # Both are held against the network that it began with.
    assert after.psnr_y_db - after.dpsnr_db == pytest.approx(before.psnr_y_db - before.dpsnr_db, abs=1e-9)
    checkpoint = load_checkpoint(path)
    stated = checkpoint.provenance["finetuned"]
    assert stated["parent"] == file_sha256(model)
    assert stated["steps"] > 0
    assert stated["recipe"]["quantize"] == ["conv_1", "upsampler.0"]
    assert checkpoint.provenance["int8"]["values"] == artifact.graph.ranges.values
    # A build of the weights that are on disk makes the same graph again.
    later = hasn_edge.build(path, output=tmp_path / "b", **options_of(folder))
    again = later.artifacts[0]
    assert again.path.read_bytes() == artifact.path.read_bytes()
    # Which is held against these weights, says so, and what INT8 of them lost.
    (note,) = (line for line in later.summary if line.startswith("tiny-finetuned: weights that were adapted"))
    assert f"lost {stated['loss_db']['mean']:.4f} dB then" in note
    assert not any("that were adapted" in line for line in built["summary"])
    # And what their own FP32 network lost.
    kept = again.details.measured.held_out
    fp32 = [each.psnr_y_db - each.dpsnr_db for each in (before, kept)]
    assert stated["fp32_loss_db"]["mean"] == pytest.approx(fp32[0] - fp32[1], abs=1e-3)
    assert f"in FP32, the adapted weights lose {stated['fp32_loss_db']['mean']:.4f} dB" in built["summary"][1]
    references = [each.details.measured.against for each in (artifact, again)]
    assert references == ["PyTorch FP32, unfused", "PyTorch FP32, unfused, of the adapted weights"]


@pytest.fixture
def _interruptible():
    """Whatever the tests were started by: what a job in the background starts ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
def test_a_run_that_is_stopped_goes_on_where_it_was(folder, tmp_path):
    taken: list[list[str]] = [[], [], []]

    def note(number: int, until: int = 0):
        def take(step) -> None:
            if step.text.startswith("fine-tuning to INT8: step "):
                taken[number].append(step.text.partition(" levels")[0])
                if len(taken[number]) == until:
                    signal.raise_signal(signal.SIGINT)

        return take

    finetune(variants_of(folder, note(0)), 130, tmp_path, cache=tmp_path / "one", clock=Ticks())
    clock = Ticks()
    with pytest.raises(Stopped, match=r"stopped after 4 steps, .* of 2\.2 minutes; the same command goes on"):
        finetune(variants_of(folder, note(1, 4)), 130, tmp_path, cache=tmp_path / "two", clock=clock)
    assert Stopped.exit_code == 130
    (state,) = (tmp_path / "two").iterdir()
    found = finetune(variants_of(folder, note(2)), 130, tmp_path, cache=tmp_path / "two", clock=clock)
    together = taken[1] + taken[2]
    same = min(len(taken[0]), len(together))
    assert same > 6
    assert together[:same] == taken[0][:same]
    assert found.state == state
    # A rebuild that is advised is one of the adapted weights.
    assert (found.variants.context.name, found.variants.context.model) == (
        "tiny-finetuned",
        "tiny-finetuned.safetensors",
    )
    found.publish()
    assert not state.exists()


@pytest.mark.slow
def test_a_rate_that_destroys_leaves_the_start(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_quant.TuneSettings.__init__, "__kwdefaults__", {**DEFAULTS, "rate": 0.5})
    found = finetune(variants := variants_of(folder), 70, tmp_path, cache=tmp_path, clock=Ticks())
    assert found.notes[-1] == "finetune: nothing was better than the start, so the weights stay as they were"
    assert (found.weights, found.variants) == (None, variants)
    assert found.publish() == ()
    assert list(tmp_path.iterdir()) == []


def run_of(variants: Variants, cache: Path) -> _Run:
    context = variants.context
    assert context.recipe is not None
    return _Run(variants, context.checkpoint, context.recipe, 60, cache, Ticks())


def test_a_state_belongs_to_its_limits_and_held_out_images(folder, tmp_path):
    variants = variants_of(folder)
    context = variants.context
    others = (
        replace(context, recipe=replace(context.recipe, budget_db=1.0)),
        replace(context, recipe=replace(context.recipe, max_drop_worst=1.0)),
        replace(context, held_out=held_out_sets(4)),
    )
    found = [run_of(Variants(each, ignore), tmp_path).path for each in (context, *others)]
    assert len(set(found)) == len(found)
    assert run_of(variants_of(folder), tmp_path).path == found[0]


def test_the_start_is_what_a_plain_build_makes_and_what_is_worse_is_not_taken(folder, tmp_path, monkeypatch):
    plain = variants_of(folder)
    variants = Variants(replace(plain.context, rules=("compose_esa",)), ignore)
    measured = []
    measure = _Run._measure

    def watch(self, exporter, ranges):
        measured.append((exporter, ranges))
        return measure(self, exporter, ranges)

    monkeypatch.setattr(_Run, "_measure", watch)
    run = run_of(variants, tmp_path)
    start = run.measure_start()
    assert measured == [variants.int8]
    assert measured[0][0].rules == ("compose_esa",)
    # What was kept is taken where it is better than that.
    network = run.tuner.network
    for loss, taken in ((2 * start.mean, False), (start.mean / 2, True)):
        run._kept = dict(network.network().state_dict()), network.ranges()
        run.best, run.best_step = replace(start, mean=loss, worst=loss), 3
        run._save()
        run.best, run.best_step, run._kept = start, 0, None
        run._load()
        assert (run.best_step, run._kept is not None) == (3 * taken, taken)
        assert run.best.mean == (loss if taken else start.mean)


def test_the_state_goes_when_the_weights_are_there(folder, tmp_path):
    (tmp_path / "state.pt").touch()
    (tmp_path / "full").touch()
    path = tmp_path / "full" / "net.safetensors"
    options = {"variants": variants_of(folder), "notes": (), "weights": b"w", "state": tmp_path / "state.pt"}
    with pytest.raises(OutputError):
        Adapted(path=path, **options).publish()
    assert (tmp_path / "state.pt").exists()


def test_nothing_is_adapted_where_the_start_keeps_the_budget(folder, tmp_path):
    found = finetune(variants_of(folder), 60, tmp_path, cache=tmp_path, only_if_needed=True)
    assert found.notes[0].startswith("finetune: not needed, INT8 of all that the recipe selects loses ")
    assert list(tmp_path.iterdir()) == []
    stopped = run_of(variants_of(folder), tmp_path).path  # of a run without such a condition
    stopped.touch()
    found.publish()
    assert stopped.exists()


def test_weights_that_were_adapted_from_others_are_not_replaced(folder, tmp_path):
    save_checkpoint(tmp_path / "tiny-finetuned.safetensors", HASN(ModelSpec(features=8, blocks=1)))
    options = options_of(folder, force=False, finetune="1m")
    with pytest.raises(OutputError, match="tiny-finetuned.safetensors was not adapted from these weights"):
        hasn_edge.build(folder / "tiny.safetensors", output=tmp_path, **options)


@pytest.mark.parametrize(
    "given", [20, Path("soon"), "20", "20 m", "0m", "-1m", "1.5h", "m", "", "20min", "1d", "٣m", "9999999s"]
)
def test_what_is_no_time_is_refused(given):
    with pytest.raises(UnsupportedError, match="expected a time of 1 or more seconds, minutes or hours"):
        BuildOptions(model="net", finetune=given)


def test_times():
    times = {"90s": 90, "20m": 1200, "1h": 3600}
    found = {text: BuildOptions(model="net", finetune=text).finetune_seconds for text in times}
    assert found == times
    done = CliRunner().invoke(cli, ["build", "--precision", "int8", "--finetune", "soon"])
    assert done.exit_code == 1
    assert "use --finetune 90s, or use --finetune 20m, or use --finetune 1h" in " ".join(done.output.split())


def test_finetuning_is_for_int8_of_weights(folder, tmp_path):
    model = folder / "tiny.safetensors"
    for precision in ("fp16", "auto"):
        with pytest.raises(UnsupportedError, match=f"finetune adapts weights to INT8; .* is {precision}"):
            hasn_edge.build(model, precision=precision, finetune="1m", output=tmp_path)
    with pytest.raises(UnsupportedError, match="finetune learns ranges with the weights"):
        options = options_of(folder, int8_method="calibrator")
        hasn_edge.build(model, finetune="1m", output=tmp_path, **options)
