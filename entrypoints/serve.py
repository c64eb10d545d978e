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
    begun = time.perf_counter()
    options = parse(argv)
    model = workspace.find_model(options.model)
    adapter = workspace.find_adapter(options.adapter) if options.adapter is not None else None
    if adapter is not None:
        check_base(adapter, model)
    from entrypoints.serving.server import listen, run

    # Before the model is loaded, which takes seconds: the port may be taken.
    listening = listen(options.host, options.port)
    phase("start PaddlePaddle")
    libraries_log_to(None)
    from entrypoints.serving.assembly import assemble

    server = assemble(options, model, adapter)
    server.engine.start()
    _say_who_may(options)
    note(f"ready after {time.perf_counter() - begun:.1f} s: {listening.url} has {server.name}")
    phase("serving")
    run(server.app, server.engine, listening, options.grace)
    return 0


def _say_who_may(options: Options) -> None:
    if not options.keys:
        note("no API keys: only this machine is answered")
        if not options.published and Path("/.dockerenv").exists():
            warn("without --published nothing outside this container reaches the server")
