"""The command from its first moment on."""

from __future__ import annotations

import subprocess
import sys

INTERRUPTED = """
import runpy, sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
sys.argv = ["hasn-edge", "--help"]
runpy.run_module("hasn_edge", run_name="__main__")
"""


def test_ctrl_c_while_it_is_being_loaded_ends_it_quietly():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
