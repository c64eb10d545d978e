"""Redirection of the libraries' logs to a file.

PaddleNLP logs some hundred coloured lines per run on standard error, and Paddle and its
dependencies warn on import. Users do not need them: what matters is reported as events.
"""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["fleet_logs_with_libraries", "libraries_log_to"]


def libraries_log_to(path: Path | None) -> None:
    """Send Python warnings and the logs of PaddleNLP and others to a file, or discard them.

    Call it before Paddle is imported.
    """
    handler: logging.Handler = logging.NullHandler()
    if path is not None:
        handler = logging.FileHandler(path, mode="a", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(True)

    # Importing it adds a handler and stops propagation.
    from paddlenlp.utils.log import logger

    logger.logger.handlers[:] = []
    logger.logger.propagate = True
    logger.set_level("INFO")


def fleet_logs_with_libraries() -> None:
    """Send the step logs of ``paddle.distributed.fleet`` to the libraries' logs.

    By default it opens ``hybrid_parallel/worker_N.log`` in the working directory, the root of the
    workspace, which is read-only (``fleet/utils/log_util.py``, Paddle 3.0.0b2).
    """
    from paddle.distributed.fleet.utils import log_util

    logger = log_util.DistributedLogger("hybrid_parallel")
    logger.handlers[:] = logging.getLogger().handlers
    log_util.g_sync_rotate_logger = logger
