"""What the host keeps of a run, in the folder that the job makes: its plan and its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.ownership import hand_over

__all__ = ["LOG", "PLAN", "RunRecord"]

LOG = "run.log"
PLAN = "plan.json"


class RunRecord:
    """Keeps ``plan.json`` and ``run.log`` in a folder as soon as the job has made it.

    Making it here would look to the job like an earlier run. Each line is written
    by itself, so that the log can be followed, and a job may replace its folder.

    Args:
        folder: the run's folder.
        plan: the plan as a JSON object.
        user: ``uid:gid`` of the files, as far as this process may set it.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any], user: str) -> None:
        self._folder = folder
        self._plan = plan
        self._user = user
        self._waiting: list[str] = []
        self._begun = False

    def write(self, line: str) -> None:
        """Append a line to the log."""
        self._waiting.append(line)
        if not self._folder.is_dir():
            return
        if not self._begun:
            self._begin()
        with (self._folder / LOG).open("a", encoding="utf-8") as stream:
            stream.writelines(f"{text}\n" for text in self._waiting)
        self._waiting.clear()

    def _begin(self) -> None:
        with replacing_file(self._folder / PLAN) as stream:
            json.dump(self._plan, stream, indent=2, ensure_ascii=False)
        (self._folder / LOG).touch()
        for name in (PLAN, LOG):
            hand_over(self._folder / name, self._user)
        self._begun = True
