"""One of several processes that pretrain a model; Paddle's launcher starts it."""

from __future__ import annotations

import sys

from entrypoints.pretraining.request import Request
from entrypoints.training.imports import spare
from entrypoints.training.processes import work
from entrypoints.training.quiet import libraries_log_to
from entrypoints.training.request import LIBRARY_LOG
from entrypoints.training.stop import StopSignal


def _pretrain(text: str, rank: int) -> None:
    request = Request.from_json(text)
    with StopSignal(request.grace) as stop:
        spare()
        libraries_log_to(request.run / LIBRARY_LOG if rank == 0 else None)
        if request.config["device"] == "cpu":
            from entrypoints.training import cpu_collectives

            cpu_collectives.install()
        from entrypoints.pretraining.run import train

        train(request, stop)


if __name__ == "__main__":
    sys.exit(work(_pretrain))
