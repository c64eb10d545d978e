"""What the libraries say goes to a file, not into the job's log.

PaddleNLP logs some hundred lines a run, coloured, on standard error; Paddle and
its dependencies warn on import. None of it is for the person who trains: what
matters is reported as events.
"""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["fleet_logs_with_libraries", "libraries_log_to"]


def libraries_log_to(path: Path | None) -> None:
    """Send Python warnings, and the logs of PaddleNLP and others, to a file, or nowhere.

    Call it before Paddle is imported.
    """
    handler: logging.Handler = logging.NullHandler()
    if path is not None:
        handler = logging.FileHandler(path, mode="a", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(True)

    # Its module adds a handler of its own and stops propagation when it is imported.
    from paddlenlp.utils.log import logger

    logger.logger.handlers[:] = []
    logger.logger.propagate = True
    logger.set_level("INFO")


def fleet_logs_with_libraries() -> None:
    """Send what ``paddle.distributed.fleet`` logs of each step where the libraries' logs go.

    By itself it opens ``hybrid_parallel/worker_N.log`` in the working folder, the root of the
    workspace, which is read-only (``fleet/utils/log_util.py``, Paddle 3.0.0b2).
    """
    from paddle.distributed.fleet.utils import log_util

    logger = log_util.DistributedLogger("hybrid_parallel")
    logger.handlers[:] = logging.getLogger().handlers
    log_util.g_sync_rotate_logger = logger
