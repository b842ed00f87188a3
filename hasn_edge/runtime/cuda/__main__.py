"""Starts CUDA as an engine would and prints how that ended: for programs that only ask."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from hasn_edge.errors import HasnEdgeError
from hasn_edge.runtime.cuda import choose

answer: dict[str, Any]
try:
    answer = {"name": choose().name}
except HasnEdgeError as exc:
    answer = {"message": exc.message, "cures": [asdict(cure) for cure in exc.cures]}
sys.stdout.write(json.dumps(answer) + "\n")
