"""TorchScript export: no size is frozen into it, and FP16 costs what half precision costs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from hasn_edge.errors import UnsupportedError, say
from hasn_edge.exporters.deployable import Float32Norm
from hasn_edge.exporters.torchscript import quiet_jit, torchscript_bytes, torchscript_from_model
from hasn_edge.fuse.apply import RULES, fuse
from hasn_edge.model.blocks import ChannelNorm
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec, Precision

SHAPES = [(1, 3, 15, 15), (2, 3, 17, 29), (1, 3, 40, 16)]


def network(**fields) -> HASN:
    torch.manual_seed(0)
    return (
        HASN(ModelSpec(**{"features": 8, "blocks": 2, "esa_channels": 4, **fields}))
        .eval()
        .requires_grad_(False)
    )


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


@pytest.mark.slow
@pytest.mark.parametrize("rules", [(), tuple(RULES)], ids=["unfused", "fused"])
@pytest.mark.parametrize("options", [{}, {"channels_last": True}], ids=str)
def test_fp32_equals_the_network_at_every_size_and_batch(rules, options):
    model = network()
    script = torchscript_from_model(fuse(model, rules)[0], **options)
    for shape in SHAPES:
        x = torch.rand(shape)
        y = script(x)
        assert y.dtype is torch.float32
        assert y.is_contiguous()
        torch.testing.assert_close(y, model(x), rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"esa": False}, {"cab": False}, {"norm": False}, {"scale": 2, "channels": 1}]
)
def test_variants(fields):
    model = network(**fields)
    x = torch.rand(1, model.spec.channels, 16, 19)
    torch.testing.assert_close(torchscript_from_model(model)(x), model(x), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_fp16_on_published_weights_and_a_photograph(shared_data):
    golden = np.load(shared_data / "upstream/golden.npz")
    model = load_checkpoint(shared_data / "upstream/HASN.pth").model()
    script = torchscript_from_model(model, precision=Precision.FP16)
    names = [n for n in golden.files if n.startswith("lr_") and golden[n].size < 40_000 and n[3].isdigit()]
    assert names
    for name in names:
        y = script(torch.from_numpy(golden[name].astype(np.float32) / 255))
        assert y.dtype is torch.float32
        # 62.9 dB is what FP16 gives in ONNX Runtime with these weights; a wrong cast costs tens of dB.
        assert psnr(y, torch.from_numpy(golden[name.replace("lr_", "sr_")])) > 60


@pytest.mark.slow
def test_fp16_holds_half_the_bytes_but_norms_in_float32(tmp_path):
    model = network(features=32)
    sizes = {}
    for precision in (Precision.FP32, Precision.FP16):
        path = tmp_path / f"{precision.value}.ts"
        path.write_bytes(torchscript_bytes(torchscript_from_model(model, precision=precision)))
        sizes[precision] = path.stat().st_size
    parameters = sum(p.numel() for p in model.parameters())
    assert sizes[Precision.FP32] - sizes[Precision.FP16] > 1.8 * parameters
    assert model.conv_1.weight.dtype is torch.float32


@pytest.mark.parametrize(
    "refusal",
    [
        RuntimeError("`torch.jit.trace` is deprecated and no longer available, use torch.export"),
        NotImplementedError("TorchScript was removed from PyTorch"),
        AttributeError("module 'torch' has no attribute 'jit'"),
    ],
)
def test_a_torch_without_torchscript_is_one_message_that_names_pt2(refusal):
    with (
        pytest.raises(UnsupportedError, match=r"has no TorchScript any more: .*; use format='pt2'"),
        quiet_jit(),
    ):
        raise refusal
    with (
        pytest.raises(UnsupportedError, match=r"any more: .*; use torch 2\.6"),
        quiet_jit(say("use torch 2.6")),
    ):
        raise refusal


def test_other_errors_pass_the_door():
    with pytest.raises(RuntimeError, match="shapes"), quiet_jit():
        raise RuntimeError("shapes do not match in TorchScript")


def test_norms_inside_an_fp16_file_are_computed_in_float32():
    script = torchscript_from_model(network(), precision=Precision.FP16)
    norms = [node for node in script.inlined_graph.nodes() if node.kind() == "aten::layer_norm"]
    convs = [node for node in script.inlined_graph.nodes() if "convolution" in node.kind()]
    assert [list(node.inputs())[2].toIValue().dtype for node in norms] == [torch.float32] * 2
    assert {list(node.inputs())[1].toIValue().dtype for node in convs} == {torch.float16}


def test_a_norm_of_half_tensors_neither_overflows_nor_underflows():
    norm = ChannelNorm(8)
    for magnitude in (1e-3, 1.0, 6e3):
        x = (torch.randn(1, 8, 3, 3) * magnitude).half()
        y = Float32Norm(norm)(x)
        assert y.dtype is torch.float16
        torch.testing.assert_close(y.double(), ChannelNorm(8).double()(x.double()), rtol=0, atol=4e-3)


@pytest.mark.slow
def test_the_file_runs_without_this_package(tmp_path):
    path = tmp_path / "net.ts"
    path.write_bytes(torchscript_bytes(torchscript_from_model(network())))
    code = (
        "import sys, torch, warnings; warnings.simplefilter('ignore'); torch.set_num_threads(1); "
        f"y = torch.jit.load({str(path)!r})(torch.zeros(1, 3, 18, 15)); "
        "print(tuple(y.shape), any(m.startswith('hasn_edge') for m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "(1, 3, 72, 60) False"


def test_a_saved_file_gives_the_same_numbers(tmp_path):
    script = torchscript_from_model(network(), precision=Precision.FP16)
    (tmp_path / "net.ts").write_bytes(torchscript_bytes(script))
    with quiet_jit():
        loaded = torch.jit.load(tmp_path / "net.ts")
    x = torch.rand(1, 3, 17, 29)
    assert torch.equal(loaded(x), script(x))


def test_int8_is_refused():
    with pytest.raises(UnsupportedError, match="TorchScript in int8 is not possible; it has fp32 and fp16"):
        torchscript_from_model(network(), precision=Precision.INT8)
