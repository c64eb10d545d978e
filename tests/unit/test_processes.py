"""A training in several processes: what its nodes have to agree on, and whose error counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entrypoints.runtime import launcher
from entrypoints.runtime.launcher import NodeLostError, Nodes
from entrypoints.training import processes
from paddle_stacks.errors import JobError, StackError

REQUEST = json.dumps({"resume": "runs/r/checkpoint-20", "changes": ["a=1"], "grace": 30})
WORKERS_ERROR = {
    "status": 2,
    "signum": None,
    "problems": [{"what": "a worker's own", "where": "", "remedy": "fix it"}],
}


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, end: StackError | None) -> dict[str, Any]:
    """Run a training whose first worker left an error, and whose launcher ended so."""
    monkeypatch.setenv("PADDLE_STACKS_BACKEND", "cpu")
    told: dict[str, Any] = {}

    def launch(program: list[str], variables: dict[str, str], *rest: Any, **more: Any) -> None:
        told.update(more)
        shared = Path(variables["PADDLE_STACKS_PROCESSES"])
        (shared / "failure.0").write_text(json.dumps(WORKERS_ERROR))
        if end is not None:
            raise end

    monkeypatch.setattr(launcher, "launch", launch)
    nodes = Nodes(2, "h:1", 0)
    processes.run("pretrain", REQUEST, ranks=1, nodes=nodes, folder=folder)
    return told


def test_all_nodes_go_on_from_the_same_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = run(monkeypatch, tmp_path, None)
    assert told["same"] == {"resume": '"runs/r/checkpoint-20"', "changes": '["a=1"]'}
    assert told["output"] == tmp_path / "log-0" / "launcher.log"


def test_the_error_of_a_worker_counts_and_not_the_launchers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(StackError, match="a worker's own") as caught:
        run(monkeypatch, tmp_path, JobError("the launcher's", remedy="fix it"))
    assert caught.value.status == 2


def test_a_lost_node_counts_and_not_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(NodeLostError, match="node 1 is gone") as caught:
        run(monkeypatch, tmp_path, NodeLostError("node 1 is gone", remedy="fix it"))
    assert caught.value.status == 5
