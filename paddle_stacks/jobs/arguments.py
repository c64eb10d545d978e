"""The arguments of every job, declared once: containers parse them, the host too."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from paddle_stacks.errors import RequestError, did_you_mean
from paddle_stacks.jobs import documented, models, sample_data, texts, validation
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
"""The seconds that a node waits for the others."""


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
        argv = sys.argv[1:] if args is None else list(args)
        options = [name for name in self._option_string_actions if name.startswith("--")]
        for word in argv:
            name = word.partition("=")[0]
            if name == "--":
                break
            if re.fullmatch(r"--[A-Za-z][\w-]*", name) and name not in options:
                if right := documented.ours(self.prog, name):
                    message = f"{self.prog} has no option {name}"
                    raise RequestError(message, where=self.prog, remedy=right)
                hint = did_you_mean(name, options)
                self._refuse(f"{self.prog} has no option {name}", hint)
        parsed: tuple[argparse.Namespace, list[str]] = super().parse_known_args(argv, namespace)
        return parsed

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
        argv = sys.argv[1:] if args is None else list(args)
        own = self._own_words(argv)
        if own < len(argv) and (wrong := documented.script_problem(argv[own], argv[own + 1 :])):
            raise RequestError(wrong)
        parsed, rest = super().parse_known_args(argv[: own + 1], namespace)
        parsed.arguments = argv[own + 1 :]
        return parsed, rest

    def _own_words(self, argv: Sequence[str]) -> int:
        """Return the number of words before the script or another word that is not an option."""
        index = 0
        while index < len(argv):
            name, equals, _ = argv[index].partition("=")
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


def words(parser: Parser, arguments: argparse.Namespace) -> list[str]:
    """Return the command line that ``parser`` parses to ``arguments``, without what is default."""
    line: list[str] = []
    for action in parser._actions:
        value = getattr(arguments, action.dest, action.default)
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
    values = {"model_name_or_path": arguments.model, "output_dir": arguments.output}
    for key, value in values.items():
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
    parser = Parser(
        prog="fetch", description="Fetch a model into models/ as a PaddleNLP checkpoint."
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a known model, or any name if --from is given")
    add("--from", dest="source", metavar="SOURCE", help=f"source of the model: {models.FORMS}")
    add("--output", metavar="FOLDER", help="output folder (default: models/MODEL)")
    add("--force", action="store_true", help="replace existing output")
    return parser


_FETCH_DATA_ENDING = """\
examples:
  fetch-data alpaca-demo
  fetch-data openwebtext-100k
  fetch-data alpaca-demo --from data/usb       (the files, downloaded elsewhere)

After an interruption the same command continues.
"""


def _fetch_data() -> Parser:
    parser = Parser(
        prog="fetch-data",
        description="Fetch known data into data/, for fine-tuning or pretraining.",
        epilog=_FETCH_DATA_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", metavar="DATA", help=f"one of: {', '.join(sample_data.known())}")
    add("--from", dest="source", metavar="FOLDER", help="folder with the files, already downloaded")
    add("--output", metavar="FOLDER", help="output folder (default: the recipes' one in data/)")
    add("--force", action="store_true", help="replace existing output")
    return parser


_PREPARE_ENDING = """\
examples:
  prepare --input data/raw --output data/corpus --model smollm2-135m-instruct --append-eos
  prepare --input 'data/*.jsonl.gz' --json-key content --output data/corpus --model m
  zcat x.gz | prepare --input - --format text --output data/corpus --model m
  prepare --input text:python-stdlib --output data/python/modules --model llama-nano

After an interruption the same command continues.
"""


def _prepare() -> Parser:
    parser = Parser(
        prog="prepare",
        description="Tokenize raw text into the .bin and .idx files that pretraining reads.",
        epilog=_PREPARE_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--input",
        action="append",
        default=[],
        required=True,
        metavar="PATH",
        help="a file, a folder, a 'pattern', - for standard input, or a text from the "
        f"image: {', '.join(texts.PREFIX + name for name in texts.TEXTS)}; repeatable",
    )
    add("--output", required=True, metavar="PREFIX", help="write PREFIX.bin and PREFIX.idx")
    add("--model", required=True, help="its tokenizer is used: a name in models/, or a path")
    add(
        "--format",
        choices=("auto", "jsonl", "text"),
        default="auto",
        help="input format (default: auto, from the file name; jsonl for standard input)",
    )
    add("--json-key", default="text", metavar="KEY", help="key of the text (default: text)")
    add(
        "--document",
        choices=("paragraph", "line", "file"),
        default="paragraph",
        help="unit of a document in plain text (default: paragraph, ended by a blank line)",
    )
    add("--append-eos", action="store_true", help="append the EOS token to each document")
    add(
        "--max-repeated-len",
        type=_count,
        default=100,
        metavar="N",
        help="collapse a character repeated more than N times (default: 100)",
    )
    add(
        "--on-bad",
        choices=("skip", "fail"),
        default="skip",
        help="bad records: skip and count them (default), or fail",
    )
    _add_split(parser)
    add("--workers", type=_count, metavar="N", help="number of processes (default: one per core)")
    add(
        "--save-every",
        type=_positive,
        default=5.0,
        metavar="SECONDS",
        help="seconds between checkpoints, lost at most when killed (default: 5)",
    )
    add("--force", action="store_true", help="replace existing output and start over")
    return parser


def _inspect() -> Parser:
    parser = Parser(
        prog="inspect", description="Show statistics and samples of a tokenized corpus."
    )
    add = parser.add_argument
    add(
        "corpus",
        metavar="CORPUS",
        help="a prefix, a folder of corpora, or weights and prefixes: '0.3 data/a 0.7 data/b'",
    )
    _add_split(parser)
    add("--samples", type=int, default=3, metavar="N", help="documents to show (default: 3)")
    add("--model", help="its tokenizer decodes them (default: the one of the corpus)")
    add("--plot", metavar="FILE", help="plot of document lengths (default: PREFIX.lengths.png)")
    return parser


def _add_split(parser: Parser) -> None:
    parser.add_argument(
        "--split",
        default="949,50,1",
        metavar="SHARES",
        help="shares of training, evaluation and test data (default: 949,50,1)",
    )


_DATA_ENDING = """\
examples:
  data tickets.csv --set data_columns=question:answer
  data data/alpaca --model smollm2-135m-instruct
  data tickets.csv --set data_columns=question:answer --convert data/tickets
"""


def _data() -> Parser:
    parser = Parser(
        prog="data",
        description="Show what fine-tuning would learn from a data set, or convert it.",
        epilog=_DATA_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "dataset",
        metavar="DATASET",
        help="a file, a folder, or weights and paths: '0.3 data/a 0.7 data/b'",
    )
    add("--model", help="count its tokens and apply its chat template: a name in models/")
    add("--samples", type=int, default=3, metavar="N", help="records to show (default: 3)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of finetune, such as data_columns, dev_ratio, max_length; repeatable",
    )
    add("--convert", metavar="FOLDER", help="write train.json and dev.json with src and tgt")
    add("--force", action="store_true", help="replace existing output")
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f'expected a number above 0, got "{text}"')
    return number


def _finetune() -> Parser:
    parser = Parser(
        prog="finetune", description="Fine-tune a model, LoRA or full, from a JSON configuration."
    )
    _add_config(parser)
    _add_ranks(parser)
    _add_run(parser)
    _add_allow_pickle(parser)
    return parser


def _add_allow_pickle(parser: Parser) -> None:
    parser.add_argument(
        "--allow-pickle",
        action="append",
        default=[],
        metavar="FILE",
        help="read the arrays of a pickled weight file, such as model_state.pdparams; repeatable",
    )


def _add_run(parser: Parser) -> None:
    add = parser.add_argument
    add("--name", help="output folder runs/NAME (default: output_dir, or the file's name)")
    add(
        "--resume",
        metavar="auto|never|CHECKPOINT",
        help="checkpoint to continue from: the last complete one (auto, default), none (never), "
        "or a folder",
    )
    add(
        "--grace",
        type=int,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"seconds to finish the step and save after SIGTERM (default: {GRACE_SECONDS})",
    )


def _add_config(parser: Parser, *, required: bool = True) -> None:
    add = parser.add_argument
    add("--config", type=Path, required=required, help="JSON configuration with PaddleNLP's keys")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration; repeatable",
    )


def _add_ranks(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--ranks",
        type=_count,
        default=1,
        metavar="N",
        help="processes, one per device (default: 1)",
    )
    add("--nnodes", type=_nodes, metavar="N", help="number of nodes (default: 1)")
    add("--master", metavar="HOST:PORT", help="rendezvous address on node 0")
    add("--rank", type=int, metavar="N", help="rank of this node, from 0")
    add(
        "--wait",
        type=_count,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help=f"seconds to wait for the other nodes (default: {WAIT_SECONDS})",
    )
    add(
        "--allow-bf16",
        action="store_true",
        help="allow bfloat16, which the DCU kernels of Paddle 3.0.0b2 lack",
    )


def _count(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of at least 1, got "{text}"')
    return int(text)


def _nodes(text: str) -> int:
    if re.fullmatch(r"\d+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text}: a range of nodes is not supported")
    return _count(text)


def _pretrain() -> Parser:
    parser = Parser(
        prog="pretrain",
        description="Pretrain a model on a tokenized corpus, from scratch or from its weights.",
    )
    _add_config(parser)
    _add_ranks(parser)
    _add_run(parser)
    _add_allow_pickle(parser)
    parser.add_argument(
        "--peak-tflops",
        type=_positive,
        metavar="N",
        help="peak TFLOPS of one device, to report utilization",
    )
    return parser


_QUANTIZE_ENDING = """\
examples:
  quantize --model smollm2-135m-instruct --set quant_type=weight_only_int8 --output models/x
  quantize --config my.json --model m --set smooth=true --output models/m-a8w8
  quantize --config configs/jobs/dcu/quantize-a8w8.json     (on a card)

On a CPU our program writes a folder for infer, serve and export. On a DCU it is upstream's
program, which has no --force and overwrites existing output.
"""


def _quantize() -> Parser:
    parser = Parser(
        prog="quantize",
        description="Quantize a model to int8 after training.",
        epilog=_QUANTIZE_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help="the model: a name in models/, or a path (model_name_or_path)")
    add("--output", metavar="FOLDER", help="output folder, such as models/NAME (output_dir)")
    _add_config(parser, required=False)
    add("--force", action="store_true", help="replace existing output")
    _add_log_name(parser)
    _add_ranks(parser)
    return parser


def _add_log_name(parser: Parser) -> None:
    parser.add_argument("--name", help="logs go to runs/NAME (default: from the script or file)")


_UPSTREAM_ENDING = """\
examples:
  upstream run_finetune.py config/llama/lora_argument.json --bf16 false --fp16 true
  upstream --ranks 8 run_pretrain.py configs/jobs/dcu/pretrain-pp8.json
  upstream predict/predictor.py --model_name_or_path models/m --dtype float16

Options of ours come before SCRIPT. A JSON is looked for in the workspace, then in llm/.
Relative paths start in the workspace.
"""


def _upstream() -> Parser:
    parser = VerbatimParser(
        prog="upstream",
        usage="upstream [OPTION …] SCRIPT [ARGUMENT …]",
        description="Run a script of PaddleNLP's llm/ folder unchanged.",
        epilog=_UPSTREAM_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_log_name(parser)
    _add_ranks(parser)
    parser.add_argument(
        "--unpatched",
        action="store_true",
        help="run without our patches (docs/recipes.md), including what fails there",
    )
    parser.add_argument("script", metavar="SCRIPT", help="path below llm/, as run_finetune.py")
    rest = parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="arguments of the script, passed on unchanged",
    )
    rest.required = False  # argparse would ask for it together with a script that is missing
    return parser


_EXPORT_ENDING = """\
examples:
  export --model smollm2-135m-instruct --adapter try1 --merge --output models/mine
  export --model smollm2-135m-instruct --static --output exported/smollm2
  export --model smollm2-135m-instruct --adapter try1 --static --output exported/mine
"""


def _export() -> Parser:
    parser = Parser(
        prog="export",
        description="Merge a LoRA adapter into its base model, export a static graph, or both.",
        epilog=_EXPORT_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    _add_model(parser)
    add("--merge", action="store_true", help="merge the adapter into the weights")
    add(
        "--static",
        action="store_true",
        help="export a static graph too, for infer --engine static (merges --adapter)",
    )
    add("--output", required=True, metavar="FOLDER", help="output folder, such as models/NAME")
    add("--force", action="store_true", help="replace existing output")
    _add_allow_pickle(parser)
    return parser


_INFER_ENDING = """\
examples:
  infer --model smollm2-135m-instruct --prompt 'What is the capital of France?'
  infer --model smollm2-135m-instruct --adapter try1 --chat
  infer --model models/x --adapter runs/y --input in.jsonl --output out.jsonl

exit status: 0 done, 2 the request is wrong, 5 failed, 128+n stopped by signal n
"""


def _infer() -> Parser:
    parser = Parser(
        prog="infer",
        description="Answer a prompt, a chat or a file of prompts.",
        epilog=_INFER_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    _add_model(parser)
    add(
        "--engine",
        choices=("dynamic", "static", "native", "fused", "block"),
        default="dynamic",
        help="engine: static runs the output of export --static; native is this project's for"
        " CPUs; fused and block require a DCU",
    )
    _add_precision(add)
    ask = parser.add_argument_group("input (one of them)").add_argument
    ask("--prompt", metavar="TEXT", help="prompt; - reads it from standard input")
    ask("--input", metavar="FILE", help="prompts, one JSON object per line; - reads standard input")
    ask(
        "--chat",
        action="store_true",
        help="interactive: /reset starts over, /exit or Ctrl-D leaves",
    )
    ask("--benchmark", action="store_true", help="measure speed and memory on random prompts")
    add(
        "--output",
        metavar="FILE",
        help="answers to --input, or benchmark results (default: standard output)",
    )
    add("--force", action="store_true", help="replace an existing --output and start over")
    add(
        "--logprobs", type=int, metavar="N", help="the N most likely tokens per position of --input"
    )
    add("--batch-size", type=int, default=8, metavar="N", help="batch size (default: 8)")
    add("--system", metavar="TEXT", help="system message of prompts that have none")
    add("--raw", action="store_true", help="do not apply the chat template")
    bench = parser.add_argument_group("benchmark").add_argument
    bench(
        "--source-length", type=int, default=300, metavar="N", help="prompt tokens (default: 300)"
    )
    bench("--rounds", type=int, default=3, metavar="N", help="runs after a warm-up (default: 3)")
    _add_decoding(parser)
    return parser


def _add_model(parser: Parser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="base model: a name in models/, or a path")
    add("--adapter", help="LoRA adapter: a name in runs/, or a path")


def _add_precision(add: Callable[..., argparse.Action]) -> None:
    add(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        help="--engine native: of the weights (default: the checkpoint's)",
    )


def _add_dtype(add: Callable[..., argparse.Action]) -> None:
    add(
        "--dtype",
        choices=("float32", "float16"),
        help="compute type (default: float16 on devices; a CPU supports float32 only)",
    )


def _add_decoding(parser: Parser) -> None:
    add = parser.add_argument_group("decoding").add_argument
    add(
        "--decode",
        choices=("greedy", "sampling"),
        help="decoding strategy (default: sampling if --temperature, --top-k or --top-p is given, "
        "else greedy)",
    )
    add("--temperature", type=float, metavar="T", help="sampling: above 0 (default: 1.0)")
    add("--top-k", type=int, metavar="K", help="sampling: the K most likely tokens (default: all)")
    add("--top-p", type=float, metavar="P", help="sampling: cumulative probability (default: 1.0)")
    add("--repetition-penalty", type=float, metavar="R", help="default: the model's, else none")
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    add(
        "--max-new-tokens",
        type=int,
        default=128,
        metavar="N",
        help="most tokens of an answer (default: 128)",
    )
    add("--stop", action="append", default=[], metavar="TEXT", help="stop at this text; repeatable")
    _add_dtype(add)


_SERVE_ENDING = """\
examples:
  serve --model smollm2-135m-instruct
  serve --model models/x --adapter runs/y --api-keys keys.txt --host 0.0.0.0

Without --api-keys it answers this machine only. After SIGTERM it finishes running requests.

exit status: 0 done, 2 the request is wrong, 3 the port is taken, 5 failed, 128+n stopped by
signal n before everything was finished
"""


def _serve() -> Parser:
    parser = Parser(
        prog="serve",
        description="Serve a model over HTTP: OpenAI API and a chat page.",
        epilog=_SERVE_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    _add_model(parser)
    add("--served-model-name", metavar="NAME", help="name in the API (default: the folder's)")
    _add_dtype(add)
    _add_listening(parser)
    _add_space(parser)
    return parser


def _add_listening(parser: Parser) -> None:
    add = parser.add_argument_group("access").add_argument
    add("--host", default=LOOPBACK, metavar="ADDRESS", help=f"to listen on (default: {LOOPBACK})")
    add("--port", type=int, default=8000, metavar="N", help="port to listen on (default: 8000)")
    add(
        "--published",
        action="store_true",
        help="the container's port is published on 127.0.0.1: listen on all its addresses",
    )
    add(
        "--api-keys",
        metavar="FILE",
        help="file of API keys: KEY or NAME KEY per line; requests without one are rejected",
    )
    add(
        "--requests-per-minute",
        type=int,
        default=0,
        metavar="N",
        help="limit per key (default: 0, none)",
    )
    add("--log-prompts", action="store_true", help="log the prompts")
    add(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="allowed CORS origin, such as https://app.example; repeatable",
    )


def _add_space(parser: Parser) -> None:
    add = parser.add_argument_group("capacity").add_argument
    add("--batch-size", type=int, default=8, metavar="N", help="largest batch (default: 8)")
    add("--max-waiting", type=int, default=64, metavar="N", help="longest queue (default: 64)")
    add(
        "--max-new-tokens",
        type=int,
        default=1024,
        metavar="N",
        help="longest answer in tokens (default: 1024)",
    )
    add(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="longest prompt in tokens (default: the context length)",
    )
    add(
        "--cache-tokens",
        type=int,
        default=32768,
        metavar="N",
        help="KV cache size in tokens, for all answers (default: 32768)",
    )
    add(
        "--prefill-tokens",
        type=int,
        default=128,
        metavar="N",
        help="prefill chunk in tokens between two decoding steps (default: 128)",
    )
    add(
        "--request-timeout",
        type=_positive,
        default=600.0,
        metavar="SECONDS",
        help="seconds per request, including the queue (default: 600)",
    )
    add(
        "--grace",
        type=int,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"seconds to finish running requests after SIGTERM (default: {GRACE_SECONDS})",
    )


PARSERS: dict[str, Callable[[], Parser]] = {
    "fetch": _fetch,
    "fetch-data": _fetch_data,
    "prepare": _prepare,
    "inspect": _inspect,
    "data": _data,
    "finetune": _finetune,
    "pretrain": _pretrain,
    "quantize": _quantize,
    "export": _export,
    "infer": _infer,
    "serve": _serve,
    "upstream": _upstream,
}
