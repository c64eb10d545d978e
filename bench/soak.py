"""Memory of the server over an hour of complete, aborted and invalid requests.

``.venv/bin/python bench/soak.py [--minutes M] [--clients N] [--gently] [--json] [--write]``

The server is that of ``serve.py``. Clients send requests continuously: every fifth is aborted in
the middle of its answer, every tenth is invalid (400), and the others are read to the end. The
process's memory, threads and open files are recorded twice a minute. The peak memory of the second
half may exceed that of the first half by at most ``GOAL``. ``--gently`` limits the server to a
third of a core, for other work on the machine; that reduces the number of requests, not the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx
import report
from serve import MODEL, Seen, Server, ask, prompts, stream

from paddle_stacks.errors import JobError, StackError, render
from paddle_stacks.jobs.workspace import find_model

GOAL = 0.02  # of the first half's most
EVERY = 30.0  # seconds between two looks
GENTLY = ("--cpus=0.35",)
WRONG = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": "many"}
PIECES_BEFORE_LEAVING = 3


async def request(client: httpx.AsyncClient, pick: random.Random) -> str:
    """Send one of the three kinds of requests, and return its kind.

    Raises:
        StackError, httpx.HTTPError: the server did not respond as expected.
    """
    prompt, count = pick.choice(prompts())
    kind = pick.choices(("whole", "left", "refused"), (7, 2, 1))[0]
    if kind == "whole":
        await ask(client, prompt, count, Seen())
    elif kind == "left":
        pieces = stream(client, prompt, count)
        async for number in _counted(pieces):
            if number == PIECES_BEFORE_LEAVING:
                break
        await pieces.aclose()
    else:
        answer = await client.post("/v1/chat/completions", json=WRONG)
        if answer.status_code != 400:
            raise JobError(
                f"expected status 400 for a wrong request, got {answer.status_code}",
                remedy="read the server's log",
            )
    return kind


async def _counted(pieces: Any) -> Any:
    number = 0
    async for _ in pieces:
        yield (number := number + 1)


async def run(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """Run the clients for a number of seconds; return the measurements of the server."""
    done: Counter[str] = Counter()
    lost: list[str] = []
    samples: list[dict[str, Any]] = []
    begun = time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=600, limits=limits, trust_env=False
    ) as client:

        async def ask_on(number: int) -> None:
            pick = random.Random(number)
            while time.monotonic() - begun < seconds:
                try:
                    done[await request(client, pick)] += 1
                except (httpx.HTTPError, StackError) as error:
                    lost.append(f"{type(error).__name__}: {error}")

        async def look() -> None:
            for number in itertools.count(1):
                seen = await asyncio.to_thread(server.seen)
                at = time.monotonic() - begun
                samples.append({"seconds": round(at), "requests": done.total(), **seen})
                report.say(json.dumps(samples[-1]))
                if at >= seconds:
                    return
                await asyncio.sleep(max(0.0, min(number * EVERY, seconds) - at))

        await asyncio.gather(look(), *(ask_on(number) for number in range(clients)))
    return {"samples": samples, "requests": dict(done), "lost": lost}


def growth(samples: list[dict[str, Any]]) -> float:
    """Return the growth of the peak memory from the first half to the second, as a fraction."""
    middle = samples[-1]["seconds"] / 2
    first = max(sample["memory_mib"] for sample in samples if sample["seconds"] <= middle)
    second = max(sample["memory_mib"] for sample in samples if sample["seconds"] > middle)
    return round(second / first - 1, 4)


def table(document: dict[str, Any]) -> str:
    """Return the measurements at a few moments as a table, and the numbers of requests."""
    samples = document["samples"]
    last = samples[-1]["seconds"]
    moments = [1 / 12, 1 / 4, 1 / 2, 3 / 4, 1]
    rows = []
    for part in moments:
        sample = min(samples, key=lambda seen, at=part * last: abs(seen["seconds"] - at))
        shown = (f"{sample['seconds'] / 60:.0f}", sample["requests"], sample["memory_mib"])
        rows.append((*shown, sample["threads"], sample["files"]))
    heading = ("minutes", "requests", "resident memory, MiB", "threads", "open files")
    requests = document["requests"]
    return (
        f"{report.table(heading, rows)}\n\n{requests.get('whole', 0)} complete answers, "
        f"{requests.get('left', 0)} disconnected clients, "
        f"{requests.get('refused', 0)} invalid requests (400), "
        f"{len(document['lost'])} lost requests. Peak memory of the second half compared with "
        f"the first: {document['growth']:+.1%} (goal: at most {GOAL:+.0%})."
    )


def main() -> int:
    """Run the benchmark; return 5 if the memory grows or a request is lost."""
    parser = argparse.ArgumentParser(description="The server for an hour.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--gently", action="store_true", help="with a third of a core")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/: the table, and a picture")
    options = parser.parse_args()
    find_model(MODEL, ROOT)
    document: dict[str, Any] = {"machine": report.machine()}
    with Server(ROOT, *(GENTLY if options.gently else ())) as server:
        document.update(asyncio.run(run(server, options.clients, options.minutes * 60)))
    document["growth"] = growth(document["samples"])
    report.show(document, table(document), as_json=options.json)
    if options.write:
        report.publish("soak", document, table(document))
    return 5 if document["lost"] or document["growth"] > GOAL else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as error:
        print(render(error), file=sys.stderr)
        sys.exit(error.status)
