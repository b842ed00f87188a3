"""Starts CUDA as an engine would and prints how that ended: for programs that only ask."""

from __future__ import annotations

import json
import sys

from hasn_edge.errors import HasnEdgeError, error_to_values
from hasn_edge.runtime.cuda import choose

try:
    sys.stdout.write(json.dumps({"name": choose().name}))
except HasnEdgeError as exc:
    sys.stdout.write(json.dumps({"error": error_to_values(exc)}))
