"""Run jobs one after another in one process, which imports Paddle once: many_jobs.py FILE

FILE has a JSON list of job and arguments a line.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
    job, *arguments = json.loads(line)
    status = import_module(f"entrypoints.{job}").main(arguments)
    assert status == 0, (line, status)
