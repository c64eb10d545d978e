"""The real server with a fake model: ``fake_server.py STEP_SECONDS [ARGUMENT …]``.

It prints its address on standard error. Its arguments are those of ``serve``.
"""

from __future__ import annotations

import os
import sys

from entrypoints.serving import arguments, middleware, server
from entrypoints.serving.app_factory import Model, Tokenizers, create_server
from entrypoints.serving.connection import Connection
from paddle_stacks.errors import StackError, render
from tests.support import fake_model

NAME = "fake"


def main(argv: list[str]) -> int:
    options = arguments.parse(["--model", "none", "--served-model-name", NAME, *argv[1:]])
    chat, raw = fake_model.text(raw=False), fake_model.text()
    model = Model(
        network=fake_model.FakeNetwork(float(argv[0])),
        tokenizers=Tokenizers(chat, raw, fake_model.text()),
        name=NAME,
        context=fake_model.CONTEXT,
        vocabulary=fake_model.VOCABULARY,
        fingerprint="fp_fake",
    )
    listening = server.listen(options.address, options.port)
    parts = create_server(options, model)
    if "HASTY" in os.environ:
        Connection.header_seconds = middleware.IO_TIMEOUT_SECONDS = 1.0
        server.KEEP_ALIVE_SECONDS = 1
    parts.engine.start()
    print(f"ready: {listening.url}", file=sys.stderr, flush=True)
    server.run(parts.app, parts.engine, listening, options.grace)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StackError as error:
        print(render(error), file=sys.stderr)
        sys.exit(error.status)
