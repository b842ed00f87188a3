"""CUDA is started in a process of its own: its errors come back as they are, its death is an answer."""

from __future__ import annotations

import pytest

from hasn_edge.errors import BuildError, NoCudaError
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.runtime.cuda import start
from hasn_edge.runtime.cuda.start import start_cuda


def test_the_package_that_starts(lab, capsys, python):
    lab.set_up("cuda-python")
    start.main()
    answer = capsys.readouterr().out.strip()
    assert answer == '{"answer": "cuda-python"}'
    assert start_cuda(python(f"echo noise; echo '{answer}'")) == "cuda-python"


def test_why_none_starts(lab, capsys, python):
    lab.set_up("torch")
    lab.gpu.hidden_from_torch = True
    start.main()
    answer = capsys.readouterr().out.replace("'", "'\\''")
    with pytest.raises(NoCudaError, match="torch: .*sees no GPU") as caught:
        start_cuda(python(f"printf '%s' '{answer}'"))
    assert [cure.action for cure in caught.value.cures] == ["shell"]


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo 'Segmentation fault' >&2; exit 139", "ended with exit code 139: Segmentation fault"),
        ("exit 3", "ended with exit code 3: it said nothing"),
        ("exec sleep 30", "CUDA did not start within 0.2 s; end other programs that use the GPU, or restart"),
    ],
)
def test_how_its_process_ends(python, script, text):
    with pytest.raises(BuildError, match=text):
        start_cuda(python(script), limit_s=0.2 if "sleep" in script else 60.0)


def test_a_python_that_is_not_there(tmp_path):
    with pytest.raises(BuildError, match="absent could not be started: No such file"):
        start_cuda(str(tmp_path / "absent"))


@pytest.mark.slow
@pytest.mark.skipif(gpu_facts() is not None, reason="this machine has a GPU")
def test_without_a_gpu_none_starts():
    with pytest.raises(NoCudaError, match="(?s)none of the three works here.*pip install"):
        start_cuda()
