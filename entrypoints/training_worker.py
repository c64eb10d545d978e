"""One of several training processes; Paddle's launcher starts it with the job's name."""

from __future__ import annotations

import sys

from entrypoints.finetuning.request import Request as Finetuning
from entrypoints.pretraining.request import Request as Pretraining
from entrypoints.runtime.logging import fleet_logs_with_libraries, libraries_log_to
from entrypoints.runtime.stop import StopSignal
from entrypoints.runtime.stubs import install_stubs
from entrypoints.training.processes import work
from entrypoints.training.request import LIBRARY_LOG


def _prepare(request: Finetuning | Pretraining, rank: int) -> None:
    install_stubs()
    libraries_log_to(request.run / LIBRARY_LOG if rank == 0 else None)
    fleet_logs_with_libraries()
    if request.config["device"] == "cpu":
        from entrypoints.cpu import collectives

        collectives.install()


def _finetune(text: str, rank: int) -> None:
    request = Finetuning.from_json(text)
    with StopSignal(request.grace) as stop:
        _prepare(request, rank)
        from entrypoints.finetuning.run import train

        train(request, stop)


def _pretrain(text: str, rank: int) -> None:
    request = Pretraining.from_json(text)
    with StopSignal(request.grace) as stop:
        _prepare(request, rank)
        from entrypoints.pretraining.run import train

        train(request, stop)


if __name__ == "__main__":
    sys.exit(work({"finetune": _finetune, "pretrain": _pretrain}[sys.argv[1]]))
