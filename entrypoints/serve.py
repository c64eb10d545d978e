"""The ``serve`` job: a model over HTTP, with OpenAI's API and a chat page."""

from __future__ import annotations

import time
from pathlib import Path

from entrypoints.inference.adapter import check_base
from entrypoints.runtime.console import note, phase, warn
from entrypoints.runtime.logging import libraries_log_to
from entrypoints.serving.arguments import Options, parse
from paddle_stacks.jobs import workspace

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the job; see ``serve --help``."""
    start_time = time.perf_counter()
    options = parse(argv)
    model = workspace.find_model(options.model)
    adapter = workspace.find_adapter(options.adapter) if options.adapter is not None else None
    if adapter is not None:
        check_base(adapter, model)
    from entrypoints.serving.server import listen, run

    # Before the model is loaded, which takes seconds, because the port may be in use.
    listening = listen(options.address, options.port)
    if options.engine != "native":
        phase("start PaddlePaddle")
        libraries_log_to(None)
    from entrypoints.serving.model_loader import load_server

    server = load_server(options, model, adapter)
    server.engine.start()
    _report_access(options)
    seconds = time.perf_counter() - start_time
    note(f"ready after {seconds:.1f} s: {listening.url} serves {server.name}")
    phase("serving")
    run(server.app, server.engine, listening, options.grace)
    return 0


def _report_access(options: Options) -> None:
    if not options.keys:
        note("no API keys: only connections from this machine are accepted")
        if not options.published and Path("/.dockerenv").exists():
            warn("without --published the server cannot be reached from outside this container")
