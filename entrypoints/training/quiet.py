"""What the libraries say goes to a file, not into the job's log.

PaddleNLP logs some hundred lines a run, coloured, on standard error; Paddle and
its dependencies warn on import. None of it is for the person who trains: what
matters is reported as events.
"""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["libraries_log_to"]


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
