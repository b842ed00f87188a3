"""What INT8 saves on a target: predicted from few graphs, refused where it saves nothing, kept on disk."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
import torch

from hasn_edge.artifact import load_artifact
from hasn_edge.engine.capabilities import ask_capabilities, probe
from hasn_edge.engine.target import EngineRuntime, EngineTarget, load_target
from hasn_edge.errors import ArtifactError, BuildError, UnsupportedError
from hasn_edge.evaluation.latency import Latency, Round
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.images.codec import write_image
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.pipeline import costs
from hasn_edge.pipeline.context import load_context
from hasn_edge.pipeline.costs import TargetCost, choose_saving, time_engines
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import ignore
from hasn_edge.quantize.recipe import Saving
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.sidecar import Form
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_builder import fake_tensorrt
from tests.support.samples import engine

GROUPS = {name: (f"{name}.conv",) for name in ("block_1.f", "block_2.f", "block_1.g", "block_2.g", "last")}
MACS = {"block_1.f.conv": 9, "block_2.f.conv": 9, "block_1.g.conv": 5, "block_2.g.conv": 5, "last.conv": 1}


class Table(TargetCost):
    """Costs from a function of the convolutions that are INT8."""

    base = 100.0

    def __init__(self, cost_of) -> None:
        self.target, self.saving = load_target("rtx"), Saving.BYTES
        self._form = Form.STRONGLY_TYPED
        self.asked: list[tuple[str, ...]] = []
        self.cost_of = cost_of

    def of(self, names, what):
        self.asked.append(names)
        return self.cost_of(names)


def test_gains_are_measured_by_kind_alone_and_last():
    """f saves 10 alone and 20 once all else is INT8 (neighbours fuse); g costs 4; to prepare INT8 costs 3."""

    def cost_of(names):
        whole = len(names) == len(GROUPS)
        saved = sum(5.0 for name in names if ".f." in name) - sum(2.0 for name in names if ".g." in name)
        return 103.0 - saved - (10.0 if whole else 0.0)

    table = Table(cost_of)
    gains = table.gains(GROUPS, MACS)
    assert gains == {
        "block_1.f": pytest.approx((10 + 20) / 2 / 2 / 100),
        "block_2.f": pytest.approx((10 + 20) / 2 / 2 / 100),
        "block_1.g": pytest.approx((-4 + 6) / 2 / 2 / 100),
        "block_2.g": pytest.approx((-4 + 6) / 2 / 2 / 100),
        "last": pytest.approx((0 + 10) / 2 / 100),
    }
    assert len(table.asked) == 2 + 2 * 3  # of 5 groups 3 kinds
    table.require_gain(gains)
    text = "the placement moves 0.0 MB, FP16 moves 0.0 MB (-7.0%)"
    assert table.confirm(("block_1.f.conv", "block_2.f.conv")) == text
    with pytest.raises(
        BuildError, match=r"saves nothing for rtx within this budget: .* use precision='fp16'"
    ):
        table.confirm(("block_1.g.conv",))


def test_convolutions_of_one_block_are_kinds_of_their_own():
    """CAB's first saves 6 and its second costs 2, in each of two blocks, of as many MACs."""
    names = [f"block_{block}.cab.cab.{place}" for block in (1, 2) for place in (0, 2)]

    def cost_of(convs):
        return 100.0 - sum(6.0 if name.endswith("0") else -2.0 for name in convs)

    gains = Table(cost_of).gains({name: (name,) for name in names}, dict.fromkeys(names, 9))
    assert gains == {name: pytest.approx(0.06 if name.endswith("0") else -0.02) for name in names}
    # Names of others' networks have no blocks that could be told from places.
    names = [f"body.{block}.conv{place}" for block in range(8) for place in (1, 2)]
    table = Table(cost_of)
    table.gains({name: (name,) for name in names}, dict.fromkeys(names, 9))
    assert len(table.asked) == 2 + 1


def test_where_nothing_saves_the_search_ends_before_losses_are_measured():
    table = Table(lambda names: 1.1e8 + 2e6 * len(names))
    table.base = 1e8
    gains = table.gains(GROUPS, MACS)
    assert len(table.asked) == 2 + 3  # nothing alone, nothing together: no second half
    assert all(gain < 0 for gain in gains.values())
    with pytest.raises(BuildError) as info:
        table.require_gain(gains)
    assert str(info.value) == (
        "INT8 saves nothing for rtx: FP16 moves 100 MB, prepared for INT8 110 MB, and each group of "
        "convolutions in INT8 adds to that, the least block_1.f (2.0 MB more); use precision='fp16', or use "
        "cost='macs'"
    )


def test_what_is_saved_follows_from_what_is_here():
    gpu = GpuFacts(
        name="one", compute_capability="8.6", total_memory_bytes=1, driver="1", cuda="13.0", integrated=False,
        l4t=None, sm_count=1,
    )  # fmt: skip
    rtx = replace(load_target("rtx"), compute_capabilities=("8.6",))
    assert choose_saving(load_target("cpu"), None) is Saving.MACS
    assert choose_saving(load_target("portable"), gpu) is Saving.MACS
    assert choose_saving(rtx, None) is Saving.BYTES
    assert choose_saving(rtx, gpu) is Saving.MS
    assert choose_saving(replace(rtx, compute_capabilities=("12.0",)), gpu) is Saving.BYTES


@pytest.mark.slow
def test_the_graphs_that_are_measured_have_int8_where_it_is_asked_for(tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny.safetensors", HASN(ModelSpec(features=8, blocks=1)))
    context = load_context(tmp_path / "tiny.safetensors", recipe="search", progress=ignore)
    seen = []

    def kernels(data: bytes, target: EngineTarget, *, precision: Precision) -> SimpleNamespace:
        graph = onnx.load_from_string(data)
        made = {output: node for node in graph.graph.node for output in node.output}
        convs = [node for node in graph.graph.node if node.op_type == "Conv"]
        integer = {
            n.name for n in convs if getattr(made.get(n.input[1]), "op_type", "") == "DequantizeLinear"
        }
        sides = graph.graph.input[0].type.tensor_type.shape.dim
        seen.append((precision.value, integer, [side.dim_value for side in sides]))
        return SimpleNamespace(moved_bytes=10.0 - len(integer))

    monkeypatch.setattr(costs, "kernels_from_onnx", kernels)

    target = load_target("rtx").with_size(48, 64)
    capabilities = ask_capabilities(target.runtime)

    def make() -> TargetCost:
        variants = Variants(context, ignore)
        return TargetCost(variants, target, capabilities, Saving.BYTES, memory=tmp_path)

    cost, chosen = make(), ("conv_1", "block_1.g.conv")
    assert (cost.base, cost.of((), ""), cost.of(chosen, "")) == (10.0, 10.0, 8.0)
    assert seen[0] == ("fp16", set(), [1, 3, 48, 64])
    assert seen[-1] == ("int8", set(chosen), [1, 3, 48, 64])
    count = len(seen)
    assert make().of(chosen, "") == 8.0
    assert len(seen) == count, "it is known from the file"
    several = Variants(replace(context, batch=(1, 4)), ignore)
    several.int8 = cost.variants.int8
    many = TargetCost(several, target.with_batch(4), capabilities, Saving.BYTES)
    assert many.base == 10.0
    assert seen[-1] == ("fp16", set(), [0, 3, 0, 0]), "a graph of any number of images is one of any size"
    pixels = Variants(replace(context, pixels=True), ignore)
    pixels.int8 = cost.variants.int8
    of_pixels = TargetCost(pixels, target, capabilities, Saving.BYTES)
    assert (of_pixels.base, of_pixels.of(chosen, "")) == (10.0, 8.0)
    assert [each[2] for each in seen[-2:]] == [[1, 48, 64, 3]] * 2, "as the files of the build take them"
    with pytest.raises(UnsupportedError, match="no compiler lists what it moves; use cost='macs'"):
        TargetCost(cost.variants, load_target("cpu"), None, Saving.BYTES)


@pytest.mark.slow
def test_milliseconds_of_one_model_are_not_anothers(tmp_path, monkeypatch):
    write_image(tmp_path / "mine" / "0.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    target = load_target("cpu").with_size(24, 32)
    for seed, seconds in enumerate((0.01, 0.02)):
        torch.manual_seed(seed)
        model = tmp_path / f"{seed}.safetensors"
        save_checkpoint(model, HASN(ModelSpec(features=8, blocks=1)))
        context = load_context(model, recipe="search", calibration=tmp_path / "mine", progress=ignore)
        monkeypatch.setattr(costs, "time_session", lambda *_, s=seconds, **__: Round(total=(s, s)))
        cost = TargetCost(Variants(context, ignore), target, None, Saving.MS, memory=tmp_path)
        assert cost.base == pytest.approx(1000 * seconds)


@pytest.mark.parametrize("dtype", ["FLOAT", "UINT8"])
def test_engines_are_timed_in_a_process_of_their_own(lab, capsys, python, monkeypatch, dtype):
    """CUDA's context would stay in the one that compiles the next engine."""
    lab.set_up()
    monkeypatch.setattr(costs, "SECONDS", 0)
    engines = [str(lab.engine(name, dtype=dtype).path) for name in ("own", "base")]
    costs.main("1", "3", "16", "20", *engines)
    printed = capsys.readouterr().out
    found = time_engines(engines, (1, 3, 16, 20), python=python(f"echo '{printed}'"))
    assert [[len(samples) for samples in each.rounds] for each in found] == [[costs.CALLS] * costs.ROUNDS] * 2
    assert min(found[0].seconds) > 0
    costs.main("1", "3", "16", "20", str(lab.engine("broken", behaviour="foreign").path))
    printed = capsys.readouterr().out.replace("'", "'\\''")
    with pytest.raises(ArtifactError, match="broken.engine"):
        time_engines(engines, (1, 3, 16, 20), python=python(f"printf %s '{printed}'"))
    with pytest.raises(BuildError, match="^the process that timed two engines ended with exit code 139: "):
        time_engines(engines, (1, 3, 16, 20), python=python("exit 139"))


@pytest.mark.slow
def test_a_search_opens_no_engine_itself(tmp_path, monkeypatch):
    timed = []

    def time_two(engines, shape):
        timed.append(([load_artifact(path).engine.build_seconds for path in engines], shape))
        return [Latency(rounds=((seconds,),)) for seconds in (0.01, 0.02)]

    seconds = iter((1.0, 2.0))
    details = engine(tmp_path).engine
    built = lambda *_, **__: SimpleNamespace(  # noqa: E731
        plan=b"plan", details=lambda: msgspec.structs.replace(details, build_seconds=next(seconds))
    )
    monkeypatch.setattr(costs, "engine_from_onnx", built)
    monkeypatch.setattr(costs, "time_engines", time_two)
    save_checkpoint(tmp_path / "tiny.safetensors", HASN(ModelSpec(features=8, blocks=1)))
    context = load_context(tmp_path / "tiny.safetensors", recipe="search", progress=ignore)
    target = load_target("tensorrt").with_size(24, 32)
    capabilities = probe(fake_tensorrt("10.13.0"), EngineRuntime.TENSORRT)
    cost = TargetCost(Variants(context, ignore), target, capabilities, Saving.MS)
    assert cost.of((), "") == pytest.approx(10.0)
    assert timed == [([1.0, 2.0], (1, 3, 24, 32))]


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [False, True])
def test_time_on_a_cpu_is_measured_in_turns(tmp_path, pixels, monkeypatch):
    taken = set()
    times = OnnxRuntimeSession.times
    monkeypatch.setattr(
        OnnxRuntimeSession, "times", lambda self, x: taken.add(x.dtype.name) or times(self, x)
    )
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny.safetensors", HASN(ModelSpec(features=8, blocks=1)))
    context = load_context(tmp_path / "tiny.safetensors", recipe="search", progress=ignore)
    target = load_target("cpu").with_size(24, 32)
    variants = Variants(replace(context, pixels=pixels), ignore)
    cost = TargetCost(variants, target, None, Saving.MS, memory=tmp_path)
    assert cost.of(("conv_1",), "") > 0
    assert cost.base > 0
    assert taken == {"uint8" if pixels else "float32"}
    assert cost.words(1.5) == "1.50 ms"
    assert cost.float_name == "FP32"
