"""The server under load: 64 clients for two minutes, compared with one client in the same run.

``.venv/bin/python bench/serve.py [--clients N] [--seconds S] [--json] [--write]``

The server runs in a container of the inference image, with SmolLM2-135M-Instruct and its
defaults. Every client sends its next request as soon as it is answered: greedy, streamed, one of
twelve prompts of 30 to 700 tokens, for 16 to 64 tokens. One client sends each prompt first; answers
under load that differ, and requests without an answer, are counted. ``--write`` writes the tables
and a picture to ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx
import report

from paddle_stacks.errors import JobError, StackError, render
from paddle_stacks.jobs.workspace import find_model

MODEL = "smollm2-135m-instruct"
IMAGE = "paddle-stacks/infer:cpu"
WARM_UP = 2  # rounds of all prompts, before anything is counted

SHORT = (
    "What is the capital of France?",
    "Name three colours.",
    "How much is 17 plus 25?",
    "Say hello in four languages.",
    "What does a compiler do?",
    "Write one sentence about the sea.",
    "Why is the sky blue?",
    "Is a tomato a fruit?",
)
SENTENCE = "The ship left the harbour in the morning, and the wind was from the west. "
LONG = tuple(f"Summarize this in one sentence: {SENTENCE * count}" for count in (5, 10, 20, 40))
LENGTHS = (16, 24, 32, 64)


@dataclass
class Seen:
    """Measurements of the clients.

    Args:
        first: seconds to the first token of each answer.
        between: seconds between its pieces.
        whole: seconds of each answer.
        tokens: generated.
        different: answers that differ from those to a single client.
        lost: requests without a whole answer, and why.
    """

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    different: int = 0
    lost: list[str] = field(default_factory=list)


def prompts() -> list[tuple[str, int]]:
    """Return the prompts, each with the number of tokens to generate."""
    return [(text, LENGTHS[at % len(LENGTHS)]) for at, text in enumerate((*SHORT, *LONG))]


async def stream(client: httpx.AsyncClient, prompt: str, count: int) -> AsyncIterator[Any]:
    """Yield the events of an answer; the last one has the usage."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": count,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise JobError(
                f"status {response.status_code}: {(await response.aread())[:200]!r}",
                remedy="read the server's log",
            )
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                if "error" in event:  # the last event of a stream that cannot go on
                    raise JobError(
                        f"the stream ended with {event['error']}", remedy="read the server's log"
                    )
                yield event


async def ask(client: httpx.AsyncClient, prompt: str, count: int, seen: Seen) -> str:
    """Send one request, record the times of its tokens, and return the answer."""
    begun = last = time.perf_counter()
    pieces: list[str] = []
    reason, usage = None, None
    async for event in stream(client, prompt, count):
        now = time.perf_counter()
        usage = event["usage"] or usage
        for choice in event["choices"]:
            reason = choice["finish_reason"] or reason
            if piece := choice["delta"].get("content"):
                (seen.between if pieces else seen.first).append(now - last)
                pieces.append(piece)
                last = now
    if reason is None or usage is None:
        raise JobError("the stream ended before the answer did", remedy="read the server's log")
    seen.whole.append(time.perf_counter() - begun)
    seen.tokens += usage["completion_tokens"]
    return "".join(pieces)


async def load(url: str, clients: int, seconds: float, alone: dict[str, str]) -> tuple[Seen, float]:
    """Run clients for a number of seconds; return their measurements and the duration."""
    seen = Seen()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    timeout = httpx.Timeout(600)
    begun = time.perf_counter()
    async with httpx.AsyncClient(
        base_url=url, timeout=timeout, limits=limits, trust_env=False
    ) as client:

        async def ask_on(number: int) -> None:
            pick = random.Random(number)
            while time.perf_counter() - begun < seconds:
                prompt, count = pick.choice(prompts())
                try:
                    answer = await ask(client, prompt, count, seen)
                except (httpx.HTTPError, StackError) as error:
                    seen.lost.append(f"{type(error).__name__}: {error}")
                else:
                    seen.different += answer != alone.setdefault(prompt, answer)

        await asyncio.gather(*(ask_on(number) for number in range(clients)))
    return seen, time.perf_counter() - begun


async def answers_alone(url: str) -> dict[str, str]:
    """Return the answer to every prompt, asked one after the other."""
    answers: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        for _ in range(WARM_UP):
            for prompt, count in prompts():
                answers[prompt] = await ask(client, prompt, count, Seen())
    return answers


class Server:
    """The server in its container.

    Args:
        workspace: has the model.
        options: more of ``docker run``.
    """

    def __init__(self, workspace: Path, *options: str) -> None:
        self.name = f"paddle-stacks-bench-{uuid.uuid4().hex[:8]}"
        command = ["docker", "run", "--rm", "--detach", "--name", self.name, "--read-only"]
        command += ["--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", "0:0"]
        command += ["--publish", "127.0.0.1::8000", "--volume", f"{workspace}:/workspace"]
        command += options
        self._run([*command, IMAGE, "serve", "--model", MODEL, "--published"])
        port = self._run(["docker", "port", self.name, "8000"]).split(":")[-1].strip()
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Server:
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                if httpx.get(self.url + "/readyz", trust_env=False).status_code == 200:
                    return self
            except httpx.HTTPError:
                time.sleep(0.1)
        self.__exit__()
        raise JobError("the server did not become ready", remedy="read the server's log")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["docker", "rm", "--force", self.name], check=False, capture_output=True)

    def seen(self) -> dict[str, Any]:
        """Return the resident memory of the server's process, its threads and open files."""
        program = (
            "import json, psutil\n"
            "p = max(psutil.process_iter(), key=lambda p: p.memory_info().rss)\n"
            "print(json.dumps([p.memory_info().rss, p.num_threads(), p.num_fds()]))"
        )
        output = self._run(["docker", "exec", self.name, "python", "-c", program])
        memory, threads, files = json.loads(output)
        return {"memory_mib": round(memory / 2**20, 1), "threads": threads, "files": files}

    def failed(self) -> list[str]:
        """Return the lines of its log about failed requests."""
        log = subprocess.run(
            ["docker", "logs", self.name], check=True, capture_output=True, text=True
        ).stderr
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return [json.dumps(line) for line in lines if line["status"] >= 400 or "failed" in line]

    @staticmethod
    def _run(command: list[str]) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise JobError(
                done.stderr.strip(),
                where=" ".join(command[:3]),
                remedy="run the command that `at` shows by itself",
            )
        return done.stdout


def percentiles(values: Sequence[float]) -> list[float]:
    """Return p50, p95, p99 and the greatest, in seconds."""
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * p))] for p in (0.5, 0.95, 0.99)]
    return [round(value, 3) for value in (*at, ordered[-1])]


def measured(seen: Seen, seconds: float) -> dict[str, Any]:
    """Return the statistics of one load."""
    return {
        "requests": len(seen.whole),
        "lost": len(seen.lost),
        "different": seen.different,
        "seconds": round(seconds, 1),
        "requests_per_second": round(len(seen.whole) / seconds, 2),
        "tokens_per_second": round(seen.tokens / seconds, 1),
        "first_token": percentiles(seen.first),
        "between_tokens": percentiles(seen.between),
        "whole": percentiles(seen.whole),
        "every_whole": sorted(round(value, 3) for value in seen.whole),
        "every_first": sorted(round(value, 3) for value in seen.first),
    }


def tables(document: dict[str, Any]) -> str:
    """Return the numbers as tables."""
    one, many = document["one"], document["many"]
    rows = [
        (name, one[key], many[key])
        for name, key in (
            ("requests answered", "requests"),
            ("lost", "lost"),
            ("answers that differ from those to one client", "different"),
            ("requests/s", "requests_per_second"),
            ("generated tokens/s", "tokens_per_second"),
        )
    ]
    rows.append(("resident memory after it, MiB", one["memory_mib"], many["memory_mib"]))
    heading = ("", "1 client", f"{document['clients']} clients")
    times = [
        (f"{name}, {who}", *result[key])
        for name, key in (
            ("first token", "first_token"),
            ("between tokens", "between_tokens"),
            ("whole answer", "whole"),
        )
        for who, result in (("1 client", one), (f"{document['clients']} clients", many))
    ]
    return "\n\n".join(
        [
            report.table(heading, rows),
            report.table(("seconds", "p50", "p95", "p99", "greatest"), times),
        ]
    )


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description="The server under load.")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--alone-seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/: tables, and a picture")
    options = parser.parse_args()
    find_model(MODEL, ROOT)
    on = report.machine()
    with Server(ROOT) as server:
        report.say("every prompt alone")
        alone = asyncio.run(answers_alone(server.url))
        report.say(f"one client for {options.alone_seconds:g} s")
        one, seconds = asyncio.run(load(server.url, 1, options.alone_seconds, dict(alone)))
        results = {"one": {**measured(one, seconds), **server.seen()}}
        report.say(f"{options.clients} clients for {options.seconds:g} s")
        many, seconds = asyncio.run(load(server.url, options.clients, options.seconds, dict(alone)))
        results["many"] = {**measured(many, seconds), **server.seen()}
        lost = [*many.lost, *server.failed()]
    document = {"machine": on, "clients": options.clients, **results, "faults": lost}
    report.show(document, tables(document), as_json=options.json)
    if options.write:
        report.publish("serve", document, tables(document))
    if lost:
        raise JobError(
            f"{len(lost)} answers were lost", where=lost[0], remedy="read the server's log"
        )


if __name__ == "__main__":
    try:
        main()
    except StackError as error:
        print(render(error), file=sys.stderr)
        sys.exit(error.status)
