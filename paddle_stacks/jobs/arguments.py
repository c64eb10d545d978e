"""The arguments of every job, declared once: containers parse them, the host too."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from paddle_stacks.errors import RequestError, did_you_mean
from paddle_stacks.jobs import documented, models, texts, validation
from paddle_stacks.jobs.schema.values import key_value
from paddle_stacks.jobs.serving import LOOPBACK

__all__ = [
    "GRACE_SECONDS",
    "PARSERS",
    "WAIT_SECONDS",
    "Parser",
    "VerbatimParser",
    "as_upstream",
    "parse",
    "parser",
    "words",
]

GRACE_SECONDS = 30
"""From SIGTERM until ``finetune`` gives up saving; less than what the host waits."""

WAIT_SECONDS = 600
"""How long a node waits for the others."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`RequestError` and guesses the option meant.

    Abbreviated options are refused: an abbreviation that works today would
    change its meaning when an option is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments, after a look for options that do not exist.

        Argparse would tell first of the required option that a misspelt one was meant to be.
        """
        given = sys.argv[1:] if args is None else list(args)
        options = [name for name in self._option_string_actions if name.startswith("--")]
        for word in given:
            name = word.partition("=")[0]
            if name == "--":
                break
            if re.fullmatch(r"--[A-Za-z][\w-]*", name) and name not in options:
                if right := documented.ours(self.prog, name):
                    what = f"{self.prog} has no option {name}"
                    raise RequestError(what, where=self.prog, remedy=right)
                hint = did_you_mean(name, options)
                self._refuse(f"{self.prog} has no option {name}", hint)
        found: tuple[argparse.Namespace, list[str]] = super().parse_known_args(given, namespace)
        return found

    def error(self, message: str) -> NoReturn:
        """Raise the fault that argparse found."""
        self._refuse(message)

    def _refuse(self, message: str, hint: str = "") -> NoReturn:
        remedy = f"{hint} ./inv {self.prog} --help".strip()
        raise RequestError(message, where=self.prog, remedy=remedy)


class VerbatimParser(Parser):
    """A parser whose first positional argument takes all that follows, whatever it looks like."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the options before the script; what follows it is the script's own."""
        given = sys.argv[1:] if args is None else list(args)
        own = self._own_words(given)
        if own < len(given) and (wrong := documented.script_problem(given[own], given[own + 1 :])):
            raise RequestError(wrong)
        found, rest = super().parse_known_args(given[: own + 1], namespace)
        found.arguments = given[own + 1 :]
        return found, rest

    def _own_words(self, given: Sequence[str]) -> int:
        """Return how many of the words come before the script, or before what is no option."""
        index = 0
        while index < len(given):
            name, equals, _ = given[index].partition("=")
            action = self._option_string_actions.get(name)
            if action is None:
                return index
            index += 1 if equals or action.nargs == 0 else 2
        return index


def parser(job: str) -> Parser:
    """Return the parser of a job's arguments.

    Args:
        job: a name in :data:`paddle_stacks.jobs.catalog.JOBS`.
    """
    return PARSERS[job]()


def parse(job: str, argv: Sequence[str], backend: str) -> argparse.Namespace:
    """Return a job's arguments, after a check of their ranges and combinations.

    Args:
        job: its name.
        argv: its command line.
        backend: where it will run.

    Raises:
        RequestError: they are wrong.
    """
    arguments = parser(job).parse_args(list(argv))
    validation.check(job, arguments, backend)
    return arguments


def words(made: Parser, found: argparse.Namespace) -> list[str]:
    """Return the command line that ``made`` parses to ``found``, without what is default."""
    line: list[str] = []
    for action in made._actions:
        value = getattr(found, action.dest, action.default)
        if value == action.default:
            continue
        if not action.option_strings:
            line += value if isinstance(value, list) else [str(value)]
            continue
        option = action.option_strings[-1]
        if action.nargs == 0:
            line.append(option)
            continue
        for item in value if isinstance(value, list) else [value]:
            # A value that begins like an option has to be joined to its own.
            text = str(item)
            joined = text.startswith("-") and text != "-"
            line += [f"{option}={text}"] if joined else [option, text]
    return line


def as_upstream(script: str, arguments: argparse.Namespace) -> list[str]:
    """Return the command line of ``upstream`` for a job that runs a script with a configuration.

    Args:
        script: upstream's.
        arguments: of ``quantize``.

    Raises:
        RequestError: there is no configuration, a ``--set`` is not KEY=VALUE, or upstream's
            program has no such option.
    """
    if arguments.config is None:
        raise RequestError(
            "upstream's program needs a configuration",
            where="--config",
            remedy="--config configs/jobs/dcu/quantize-a8w8.json, or --recipe NAME",
        )
    if arguments.force:
        raise RequestError(
            "upstream's program writes over what is there, and has no such option",
            where="--force",
            remedy="leave it out, and move away what has to stay",
        )
    changes: list[str] = []
    given = {"model_name_or_path": arguments.model, "output_dir": arguments.output}
    for key, value in given.items():
        changes += [f"--{key}", value] if value else []
    for text in arguments.set:
        name, value = key_value(text)
        changes += [f"--{name}", value]
    line: list[str] = []
    usual = {"ranks": 1, "wait": WAIT_SECONDS}
    for option in ("name", "ranks", "nnodes", "master", "rank", "wait"):
        value = getattr(arguments, option)
        if value is not None and value != usual.get(option):
            line += [f"--{option}", str(value)]
    line += ["--allow-bf16"] if arguments.allow_bf16 else []
    return [*line, script, str(arguments.config), *changes]


def _fetch() -> Parser:
    made = Parser(prog="fetch", description="Put a model into models/ as a PaddleNLP checkpoint.")
    add = made.add_argument
    add("model", metavar="MODEL", help="a known model, or any name with --from")
    add("--from", dest="source", metavar="SOURCE", help=models.FORMS)
    add("--output", metavar="FOLDER", help="where it goes (default: models/MODEL)")
    add("--force", action="store_true", help="replace what is there")
    return made


_PREPARE_ENDING = """\
examples:
  prepare --input data/raw --output data/corpus --model smollm2-135m-instruct --append-eos
  prepare --input 'data/*.jsonl.gz' --json-key content --output data/corpus --model m
  zcat x.gz | prepare --input - --format text --output data/corpus --model m
  prepare --input text:python-stdlib --output data/python/modules --model llama-nano

Killed or stopped, the same command goes on where it was.
"""


def _prepare() -> Parser:
    made = Parser(
        prog="prepare",
        description="Make tokens of raw text: the .bin and .idx that pretraining reads.",
        epilog=_PREPARE_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--input",
        action="append",
        default=[],
        required=True,
        metavar="PATH",
        help="a file, a folder, a 'pattern', - for standard input, or a text that is in the "
        f"image: {', '.join(texts.PREFIX + name for name in texts.TEXTS)}; repeatable",
    )
    add("--output", required=True, metavar="PREFIX", help="makes PREFIX.bin and PREFIX.idx")
    add("--model", required=True, help="whose tokenizer: a name in models/, or a path")
    add(
        "--format",
        choices=("auto", "jsonl", "text"),
        default="auto",
        help="of the input (default: auto, by its name; standard input: jsonl)",
    )
    add("--json-key", default="text", metavar="KEY", help="of the text in a line (default: text)")
    add(
        "--document",
        choices=("paragraph", "line", "file"),
        default="paragraph",
        help="what a document is in plain text (default: paragraph, up to a blank line)",
    )
    add("--append-eos", action="store_true", help="end every document with the end token")
    add(
        "--max-repeated-len",
        type=_count,
        default=100,
        metavar="N",
        help="keep one of a character that comes more than N times in a row (default: 100)",
    )
    add(
        "--on-bad",
        choices=("skip", "fail"),
        default="skip",
        help="a bad record: skip and count it (default), or fail",
    )
    _add_split(made)
    add("--workers", type=_count, metavar="N", help="processes (default: one for each core)")
    add(
        "--save-every",
        type=_positive,
        default=5.0,
        metavar="SECONDS",
        help="what is lost at the most when it is killed (default: 5)",
    )
    add("--force", action="store_true", help="replace what is there; begin anew")
    return made


def _inspect() -> Parser:
    made = Parser(prog="inspect", description="Show what a corpus of tokens holds.")
    add = made.add_argument
    add(
        "corpus",
        metavar="CORPUS",
        help="a prefix, a folder of corpora, or weights and prefixes: '0.3 data/a 0.7 data/b'",
    )
    _add_split(made)
    add("--samples", type=int, default=3, metavar="N", help="documents to show (default: 3)")
    add("--model", help="whose tokenizer shows them (default: the one that made the corpus)")
    add("--plot", metavar="FILE", help="the picture (default: PREFIX.lengths.png)")
    return made


def _add_split(made: Parser) -> None:
    made.add_argument(
        "--split",
        default="949,50,1",
        metavar="SHARES",
        help="shares of training, evaluation and test, to show (default: 949,50,1)",
    )


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f'expected a number above 0, got "{text}"')
    return number


def _finetune() -> Parser:
    made = Parser(
        prog="finetune",
        description="LoRA or full supervised fine-tuning from a JSON configuration.",
    )
    _add_config(made)
    _add_ranks(made)
    _add_run(made)
    _add_allow_pickle(made)
    return made


def _add_allow_pickle(made: Parser) -> None:
    made.add_argument(
        "--allow-pickle",
        action="append",
        default=[],
        metavar="FILE",
        help="weights that are a pickle, as model_state.pdparams: read its arrays; repeatable",
    )


def _add_run(made: Parser) -> None:
    add = made.add_argument
    add("--name", help="write to runs/NAME (default: output_dir, or the configuration's name)")
    add(
        "--resume",
        metavar="auto|never|CHECKPOINT",
        help="auto: from the last whole checkpoint (default); never: start over; or a folder",
    )
    add(
        "--grace",
        type=int,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"time to finish the step and save after SIGTERM (default: {GRACE_SECONDS})",
    )


def _add_config(made: Parser, *, required: bool = True) -> None:
    add = made.add_argument
    add("--config", type=Path, required=required, help="a JSON with upstream's keys")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the configuration; repeatable",
    )


def _add_ranks(made: Parser) -> None:
    add = made.add_argument
    add("--ranks", type=_count, default=1, metavar="N", help="processes here, one on each card")
    add("--nnodes", type=_nodes, metavar="N", help="nodes that train together (default: 1)")
    add("--master", metavar="HOST:PORT", help="where they meet: an address of node 0")
    add("--rank", type=int, metavar="N", help="which of the nodes this is, from 0")
    add(
        "--wait",
        type=_count,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for the other nodes (default: {WAIT_SECONDS})",
    )
    add("--allow-bf16", action="store_true", help="the cards have bfloat16; a K100_AI has not")


def _count(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of at least 1, got "{text}"')
    return int(text)


def _nodes(text: str) -> int:
    if re.fullmatch(r"\d+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text}: a range of nodes is not supported")
    return _count(text)


def _pretrain() -> Parser:
    made = Parser(
        prog="pretrain",
        description="Train a language model on a corpus, from scratch or from its weights.",
    )
    _add_config(made)
    _add_ranks(made)
    _add_run(made)
    _add_allow_pickle(made)
    made.add_argument(
        "--peak-tflops",
        type=_positive,
        metavar="N",
        help="what one device can compute, in 10^12 operations a second, to show the share used",
    )
    return made


_QUANTIZE_ENDING = """\
examples:
  quantize --model smollm2-135m-instruct --set quant_type=weight_only_int8 --output models/x
  quantize --config my.json --model m --set smooth=true --output models/m-a8w8
  quantize --config configs/jobs/dcu/quantize-a8w8.json     (on a card)

On a CPU the program is ours, and makes a folder for infer, serve and export. On a card it is
upstream's: it has no --force, and writes over what is there.
"""


def _quantize() -> Parser:
    made = Parser(
        prog="quantize",
        description="Quantize a model after its training, to weights in eight bits.",
        epilog=_QUANTIZE_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", help="the model: a name in models/, or a path (model_name_or_path)")
    add("--output", metavar="FOLDER", help="where it goes, as models/NAME (output_dir)")
    _add_config(made, required=False)
    add("--force", action="store_true", help="replace what is there")
    _add_log_name(made)
    _add_ranks(made)
    return made


def _add_log_name(made: Parser) -> None:
    made.add_argument("--name", help="logs go to runs/NAME (default: after what is run)")


_UPSTREAM_ENDING = """\
examples:
  upstream run_finetune.py config/llama/lora_argument.json --bf16 false --fp16 true
  upstream --ranks 8 run_pretrain.py configs/jobs/dcu/pretrain-pp8.json
  upstream predict/predictor.py --model_name_or_path models/m --dtype float16

Options of ours come before SCRIPT. A JSON is looked for in the workspace, then in llm/.
Relative paths start in the workspace.
"""


def _upstream() -> Parser:
    made = VerbatimParser(
        prog="upstream",
        usage="upstream [OPTION …] SCRIPT [ARGUMENT …]",
        description="Run a script of PaddleNLP's llm/ folder as it is.",
        epilog=_UPSTREAM_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_log_name(made)
    _add_ranks(made)
    made.add_argument(
        "--unpatched",
        action="store_true",
        help="run it without our patches (docs/recipes.md), with what fails there",
    )
    made.add_argument("script", metavar="SCRIPT", help="below llm/, as run_finetune.py")
    rest = made.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="the script's own, passed on as they are",
    )
    rest.required = False  # argparse would ask for it together with a script that is missing
    return made


_EXPORT_ENDING = """\
examples:
  export --model smollm2-135m-instruct --adapter try1 --merge --output models/mine
  export --model smollm2-135m-instruct --static --output exported/smollm2
  export --model smollm2-135m-instruct --adapter try1 --static --output exported/mine
"""


def _export() -> Parser:
    made = Parser(
        prog="export",
        description="Merge a LoRA adapter into its base model, make a static graph, or both.",
        epilog=_EXPORT_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    _add_model(made)
    add("--merge", action="store_true", help="merge the adapter into the weights")
    add(
        "--static",
        action="store_true",
        help="make a static graph too, for infer --engine static (merges an --adapter)",
    )
    add("--output", required=True, metavar="FOLDER", help="where it goes, as models/NAME")
    add("--force", action="store_true", help="replace what is there")
    _add_allow_pickle(made)
    return made


_INFER_ENDING = """\
examples:
  infer --model smollm2-135m-instruct --prompt 'What is the capital of France?'
  infer --model smollm2-135m-instruct --adapter try1 --chat
  infer --model models/x --adapter runs/y --input in.jsonl --output out.jsonl

exit status: 0 done, 2 the request is wrong, 5 failed, 128+n stopped by signal n
"""


def _infer() -> Parser:
    made = Parser(
        prog="infer",
        description="Answer a prompt, a person or a file of prompts.",
        epilog=_INFER_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    _add_model(made)
    add(
        "--engine",
        choices=("dynamic", "static", "fused", "block"),
        default="dynamic",
        help="static: --model is what export --static made; fused and block are a DCU's",
    )
    what = made.add_argument_group("what to answer (one of them)").add_argument
    what("--prompt", metavar="TEXT", help="a question; - reads it from standard input")
    what("--input", metavar="FILE", help="prompts, a JSON object per line; - is standard input")
    what("--chat", action="store_true", help="talk: /reset begins anew, /exit or Ctrl-D leaves")
    what("--benchmark", action="store_true", help="measure speed and memory on random prompts")
    add(
        "--output",
        metavar="FILE",
        help="answers to --input, what --benchmark found (default: standard output)",
    )
    add("--force", action="store_true", help="replace an existing --output; begin anew")
    add("--logprobs", type=int, metavar="N", help="tell the N likeliest at each place of --input")
    add("--batch-size", type=int, default=8, metavar="N", help="prompts at once (default: 8)")
    add("--system", metavar="TEXT", help="a system message, where a prompt brings none")
    add("--raw", action="store_true", help="give the prompt as it is, without the chat template")
    bench = made.add_argument_group("benchmark").add_argument
    bench("--source-length", type=int, default=300, metavar="N", help="tokens (default: 300)")
    bench("--rounds", type=int, default=3, metavar="N", help="after a first one (default: 3)")
    _add_decoding(made)
    return made


def _add_model(made: Parser) -> None:
    add = made.add_argument
    add("--model", required=True, help="the base model: a name in models/, or a path")
    add("--adapter", help="a LoRA adapter: a name in runs/, or a path")


def _add_dtype(add: Callable[..., argparse.Action]) -> None:
    add(
        "--dtype",
        choices=("float32", "float16"),
        help="what is computed in (default: float16 on cards; a CPU has float32 only)",
    )


def _add_decoding(made: Parser) -> None:
    add = made.add_argument_group("decoding").add_argument
    add(
        "--decode",
        choices=("greedy", "sampling"),
        help="default: sampling if --temperature, --top-k or --top-p is given, else greedy",
    )
    add("--temperature", type=float, metavar="T", help="sampling: > 0 (default: 1.0)")
    add("--top-k", type=int, metavar="K", help="sampling: the K likeliest (default: 0, all)")
    add("--top-p", type=float, metavar="P", help="sampling: the likeliest with P (default: 1.0)")
    add("--repetition-penalty", type=float, metavar="R", help="default: the model's, else none")
    add("--seed", type=int, default=0, metavar="N", help="same seed, same text (default: 0)")
    add("--max-new-tokens", type=int, default=128, metavar="N", help="default: 128")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; repeatable")
    _add_dtype(add)


_SERVE_ENDING = """\
examples:
  serve --model smollm2-135m-instruct
  serve --model models/x --adapter runs/y --api-keys keys.txt --host 0.0.0.0

Without --api-keys it answers this machine only. SIGTERM ends it when what is under way is
finished.

exit status: 0 done, 2 the request is wrong, 3 the port is taken, 5 failed, 128+n stopped by
signal n before everything was finished
"""


def _serve() -> Parser:
    made = Parser(
        prog="serve",
        description="Serve a model over HTTP with OpenAI's API, and a page to talk with it.",
        epilog=_SERVE_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    _add_model(made)
    add("--served-model-name", metavar="NAME", help="what clients call it (default: its folder's)")
    _add_dtype(add)
    _add_listening(made)
    _add_space(made)
    return made


def _add_listening(made: Parser) -> None:
    add = made.add_argument_group("who may use it").add_argument
    add("--host", default=LOOPBACK, metavar="ADDRESS", help=f"to listen on (default: {LOOPBACK})")
    add("--port", type=int, default=8000, metavar="N", help="to listen on (default: 8000)")
    add(
        "--published",
        action="store_true",
        help="the port of this container is published on 127.0.0.1: listen on all its addresses",
    )
    add("--api-keys", metavar="FILE", help="a key per line, or NAME KEY; anything else is refused")
    add(
        "--requests-per-minute",
        type=int,
        default=0,
        metavar="N",
        help="of each key (default: 0, no limit)",
    )
    add("--log-prompts", action="store_true", help="put what is asked into the log")
    add(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site whose pages may use the server (CORS), as https://app.example; repeatable",
    )


def _add_space(made: Parser) -> None:
    add = made.add_argument_group("how much at once").add_argument
    add("--batch-size", type=int, default=8, metavar="N", help="answers at once (default: 8)")
    add(
        "--max-waiting",
        type=int,
        default=64,
        metavar="N",
        help="requests that may wait (default: 64)",
    )
    add(
        "--max-new-tokens",
        type=int,
        default=1024,
        metavar="N",
        help="an answer's greatest length (default: 1024)",
    )
    add(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="a prompt's greatest length (default: what the context holds)",
    )
    add(
        "--cache-tokens",
        type=int,
        default=32768,
        metavar="N",
        help="tokens whose keys and values are kept, of all answers (default: 32768)",
    )
    add(
        "--prefill-tokens",
        type=int,
        default=128,
        metavar="N",
        help="tokens of prompts that are read between two steps (default: 128)",
    )
    add(
        "--request-timeout",
        type=_positive,
        default=600.0,
        metavar="SECONDS",
        help="for a request, its waiting included (default: 600)",
    )
    add(
        "--grace",
        type=int,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"time to finish what is under way after SIGTERM (default: {GRACE_SECONDS})",
    )


PARSERS: dict[str, Callable[[], Parser]] = {
    "fetch": _fetch,
    "prepare": _prepare,
    "inspect": _inspect,
    "finetune": _finetune,
    "pretrain": _pretrain,
    "quantize": _quantize,
    "export": _export,
    "infer": _infer,
    "serve": _serve,
    "upstream": _upstream,
}
