"""The options of every job, declared once: help, type, default and valid values.

The host and the containers build their command lines from these classes
(:mod:`paddle_stacks.jobs.arguments`) and make the same checks (:meth:`Options.check`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import backends, deprecated_flags, models, sample_data, serving, texts
from paddle_stacks.jobs.ranges import Range
from paddle_stacks.jobs.workspace import run_name_problem

__all__ = [
    "GRACE_SECONDS",
    "OPTIONS",
    "READ",
    "WAIT_SECONDS",
    "WRITE",
    "DataOptions",
    "DecodingOptions",
    "ExportOptions",
    "FetchDataOptions",
    "FetchOptions",
    "FinetuneOptions",
    "InferOptions",
    "InspectOptions",
    "NodeOptions",
    "Options",
    "PrepareOptions",
    "PretrainOptions",
    "QuantizeOptions",
    "RecipeOptions",
    "ServeOptions",
    "Spec",
    "UpstreamOptions",
    "node_problems",
    "specs",
]

GRACE_SECONDS = 30
"""Seconds from SIGTERM until a training gives up saving; less than the host waits."""

WAIT_SECONDS = 600
"""Seconds that a node waits for the others."""

READ, WRITE = "read", "write"
"""A job reads or writes the path that an option names."""

_MAX_LOGPROBS = 20  # as in OpenAI's API
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+:-]{0,127}")
_ETCD = "etcd://"

_AT_LEAST_0 = Range(low=0)
_AT_LEAST_1 = Range(low=1)
_ABOVE_0 = Range(above=0)
_UP_TO_1E9 = Range(above=0, high=1e9)  # more has no effect
_BATCH_SIZES = Range(low=1, high=1024)


@dataclass(frozen=True)
class Spec:
    """The declaration of an option.

    Args:
        help: one phrase, without its default.
        flag: as it is written on the command line; empty for a positional argument.
        metavar: stands for the value in the help; empty for the parser's own.
        choices: the valid values; empty for all.
        range: the valid numbers; None for all.
        parse: converts and checks the text, for argparse; None for the type itself.
        path: :data:`READ` or :data:`WRITE` if the value names a path in the workspace; empty
            otherwise.
        name: the field's name.
        type: the type of the value, or of one of the values.
        repeatable: whether the value is a tuple of values.
        default: the value if the option is omitted; ``...`` if it is required.
        group: title of its group in the help; empty for none.
    """

    help: str
    flag: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    range: Range | None = None
    parse: Callable[[str], Any] | None = None
    path: str = ""
    name: str = ""
    type: type = str
    repeatable: bool = False
    default: Any = ...
    group: str = ""

    @property
    def full_help(self) -> str:
        """The help with the default."""
        default = self.default
        if default in (None, False, (), ...) or "default" in self.help:
            return self.help
        shown = f"{default:g}" if isinstance(default, float) else default
        return f"{self.help} (default: {shown})"


def _option(help: str, default: Any = None, *, flag: str = "--", **values: Any) -> Any:
    """Return the field of an option; the default ``...`` makes it required."""
    default = MISSING if default is ... else default
    return field(default=default, metadata={"spec": (help, flag, values)})


def _argument(help: str, default: Any = ..., **values: Any) -> Any:
    return _option(help, default, flag="", **values)


def specs(options: type[Options]) -> tuple[Spec, ...]:
    """Return the declarations of a job's options, in order."""
    types = get_type_hints(options)
    declarations = []
    for each in fields(options):
        help, flag, values = each.metadata["spec"]
        owner = next(c for c in options.__mro__ if each.name in vars(c).get("__annotations__", {}))
        kind, repeatable = _value_type(types[each.name])
        declarations.append(
            Spec(
                help,
                f"--{each.name.replace('_', '-')}" if flag == "--" else flag,
                name=each.name,
                type=kind,
                repeatable=repeatable,
                default=... if each.default is MISSING else each.default,
                group=vars(owner).get("group", ""),
                **values,
            )
        )
    return tuple(declarations)


def _value_type(hint: Any) -> tuple[type, bool]:
    """Return the type of a field's values, and whether it holds a tuple of them."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    members = [each for each in get_args(hint) if each is not type(None)]
    return (members[0] if members else hint), False


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a job."""

    job: ClassVar[str]
    group: ClassVar[str] = ""
    examples: ClassVar[str] = ""

    def argv(self) -> list[str]:
        """Return the command line, without what has its default."""
        words: list[str] = []
        for spec in specs(type(self)):
            value = getattr(self, spec.name)
            if value == spec.default:
                continue
            values = value if spec.repeatable else (value,)
            if not spec.flag:
                words += map(str, values)
            elif spec.type is bool:
                words.append(spec.flag)
            else:
                for text in map(str, values):
                    # A value that looks like an option has to be joined to its own.
                    joined = text.startswith("-") and text != "-"
                    words += [f"{spec.flag}={text}"] if joined else [spec.flag, text]
        return words

    def check(self, backend: str) -> None:
        """Check ranges and combinations.

        Args:
            backend: the backend that the job will run on.

        Raises:
            RequestError: some options are wrong. Reports all of them.
        """
        problems = [*self._range_problems(), *self._problems(backend)]
        if problems:
            raise RequestError(problems)

    def _range_problems(self) -> Iterator[Problem]:
        for spec in specs(type(self)):
            value = getattr(self, spec.name)
            if spec.range and value != spec.default and value not in spec.range:
                message = f"{spec.flag} must be {spec.range}, got {value}"
                yield Problem(message, self.job, f"{spec.flag} N, with N {spec.range}")

    def _problems(self, backend: str) -> Iterator[Problem]:
        """Yield what is wrong with the combination of options, and with texts."""
        yield from ()


# ------------------------------------------------------------------ shared by several jobs


@dataclass(frozen=True, kw_only=True)
class ConfigOptions(Options):
    """A configuration with PaddleNLP's keys."""

    config: Path = _option(  # noqa: RUF009
        "JSON configuration with PaddleNLP's keys", ..., path=READ
    )
    set: tuple[str, ...] = _option(
        "override a key of the configuration; repeatable", (), metavar="KEY=VALUE"
    )


def _node_count(text: str) -> int:
    if re.fullmatch(r"\d+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text}: a range of nodes is not supported")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class NodeOptions(Options):
    """Processes and nodes that train together."""

    ranks: int = _option("processes, one per device", 1, range=_AT_LEAST_1)
    nnodes: int | None = _option(
        "number of nodes (default: 1)", range=_AT_LEAST_1, parse=_node_count
    )
    master: str | None = _option("rendezvous address on node 0", metavar="HOST:PORT")
    rank: int | None = _option("rank of this node, from 0")
    wait: int = _option(
        "seconds to wait for the other nodes", WAIT_SECONDS, metavar="SECONDS", range=_AT_LEAST_1
    )
    allow_bf16: bool = _option(
        "allow bfloat16, which the DCU kernels of Paddle 3.0.0b2 lack", False
    )

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.nnodes or 1

    @property
    def world(self) -> int:
        """Number of processes on all nodes."""
        return self.ranks * self.nodes


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """The run of a training."""

    name: str | None = _option("output folder runs/NAME (default: output_dir, or the file's name)")
    resume: str | None = _option(
        "checkpoint to continue from: the last complete one (auto, default), none (never), "
        "or a folder",
        metavar="auto|never|CHECKPOINT",
        path=READ,
    )
    grace: int = _option(
        "seconds to finish the step and save after SIGTERM",
        GRACE_SECONDS,
        metavar="SECONDS",
        range=_AT_LEAST_0,
    )

    def _problems(self, backend: str) -> Iterator[Problem]:
        yield from _name_problems(self.name)
        yield from super()._problems(backend)


def _name_problems(name: str | None) -> Iterator[Problem]:
    if name is not None and (problem := run_name_problem(name)):
        yield problem


@dataclass(frozen=True, kw_only=True)
class PickleOptions(Options):
    """Permission to read pickled weights."""

    allow_pickle: tuple[str, ...] = _option(
        "read the arrays of a pickled weight file, such as model_state.pdparams; repeatable",
        (),
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """A model, and an adapter for it."""

    model: str = _option("base model: a name in models/, or a path", ..., path=READ)
    adapter: str | None = _option("LoRA adapter: a name in runs/, or a path", path=READ)


@dataclass(frozen=True, kw_only=True)
class DtypeOptions(Options):
    """The type of computation."""

    dtype: str | None = _option(
        "compute type (default: float16 on devices; a CPU supports float32 only)",
        choices=("float32", "float16"),
    )

    @property
    def compute_dtype(self) -> str:
        """The type of computation in this container: ``float32`` or ``float16``."""
        return self.dtype or backends.default_dtype()

    def _problems(self, backend: str) -> Iterator[Problem]:
        if self.dtype == "float16" and backends.device(backend) == "cpu":
            message = "--dtype float16 requires a device: a CPU computes in float32"
            yield Problem(message, self.job, "leave it out, or --dtype float32")
        yield from super()._problems(backend)


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """The engine, and the precision of the native one."""

    engine: str = _option(
        "engine: native is this project's for CPUs", "dynamic", choices=("dynamic", "native")
    )
    precision: str | None = _option(
        "--engine native: of the weights (default: the checkpoint's)",
        choices=("fp32", "bf16", "int8"),
    )

    def _problems(self, backend: str) -> Iterator[Problem]:
        if self.engine == "native" and backends.device(backend) != "cpu":
            message = "--engine native computes on a CPU"
            yield Problem(message, self.job, "--backend cpu, or --engine dynamic")
        if self.precision is not None and self.engine != "native":
            message = "--precision requires --engine native"
            yield Problem(message, self.job, "--engine native, or leave --precision out")
        yield from super()._problems(backend)


# ------------------------------------------------------------------ the jobs


@dataclass(frozen=True, kw_only=True)
class FetchOptions(Options):
    """The options of ``fetch``."""

    job: ClassVar[str] = "fetch"

    model: str = _argument("a known model, or any name if --from is given")
    source: str | None = _option(
        f"source of the model: {models.FORMS}", flag="--from", metavar="SOURCE", path=READ
    )
    output: str | None = _option(
        "output folder (default: models/MODEL)", metavar="FOLDER", path=WRITE
    )
    force: bool = _option("replace existing output", False)


@dataclass(frozen=True, kw_only=True)
class FetchDataOptions(Options):
    """The options of ``fetch-data``."""

    job: ClassVar[str] = "fetch-data"
    examples: ClassVar[str] = """\
examples:
  fetch-data alpaca-demo
  fetch-data openwebtext-100k
  fetch-data alpaca-demo --from data/usb       (the files, downloaded elsewhere)

After an interruption the same command continues.
"""

    data: str = _argument(f"one of: {', '.join(sample_data.known())}")
    source: str | None = _option(
        "folder with the files, already downloaded", flag="--from", metavar="FOLDER", path=READ
    )
    output: str | None = _option(
        "output folder (default: the recipes' one in data/)", metavar="FOLDER", path=WRITE
    )
    force: bool = _option("replace existing output", False)


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """The options of ``prepare``."""

    job: ClassVar[str] = "prepare"
    examples: ClassVar[str] = """\
examples:
  prepare --input data/raw --output data/corpus --model smollm2-135m-instruct --append-eos
  prepare --input 'data/*.jsonl.gz' --json-key content --output data/corpus --model m
  zcat x.gz | prepare --input - --format text --output data/corpus --model m
  prepare --input text:python-stdlib --output data/python/modules --model llama-nano

After an interruption the same command continues.
"""

    input: tuple[str, ...] = _option(
        "a file, a folder, a 'pattern', - for standard input, or a text from the image: "
        f"{', '.join(texts.PREFIX + name for name in texts.TEXTS)}; repeatable",
        ...,
        metavar="PATH",
        path=READ,
    )
    output: str = _option("write PREFIX.bin and PREFIX.idx", ..., metavar="PREFIX", path=WRITE)
    model: str = _option("its tokenizer is used: a name in models/, or a path", ..., path=READ)
    format: str = _option(
        "input format (default: auto, from the file name; jsonl for standard input)",
        "auto",
        choices=("auto", "jsonl", "text"),
    )
    json_key: str = _option("key of the text", "text", metavar="KEY")
    document: str = _option(
        "unit of a document in plain text (default: paragraph, ended by a blank line)",
        "paragraph",
        choices=("paragraph", "line", "file"),
    )
    append_eos: bool = _option("append the EOS token to each document", False)
    max_repeated_len: int = _option(
        "collapse a character repeated more than N times", 100, range=_AT_LEAST_1
    )
    on_bad: str = _option(
        "bad records: skip and count them (default), or fail", "skip", choices=("skip", "fail")
    )
    split: str = _option(
        "shares of training, evaluation and test data", "949,50,1", metavar="SHARES"
    )
    workers: int | None = _option("number of processes (default: one per core)", range=_AT_LEAST_1)
    save_every: float = _option(
        "seconds between checkpoints, lost at most when killed",
        5.0,
        metavar="SECONDS",
        range=_ABOVE_0,
    )
    force: bool = _option("replace existing output and start over", False)


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    """The options of ``inspect``."""

    job: ClassVar[str] = "inspect"

    corpus: str = _argument(
        "a prefix, a folder of corpora, or weights and prefixes: '0.3 data/a 0.7 data/b'",
        path=READ,
    )
    split: str = _option(
        "shares of training, evaluation and test data", "949,50,1", metavar="SHARES"
    )
    samples: int = _option("documents to show", 3, range=_AT_LEAST_0)
    model: str | None = _option(
        "its tokenizer decodes them (default: the one of the corpus)", path=READ
    )
    plot: str | None = _option(
        "plot of document lengths (default: PREFIX.lengths.png)", metavar="FILE", path=WRITE
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """The options of ``data``."""

    job: ClassVar[str] = "data"
    examples: ClassVar[str] = """\
examples:
  data tickets.csv --set data_columns=question:answer
  data data/alpaca --model smollm2-135m-instruct
  data tickets.csv --set data_columns=question:answer --convert data/tickets
"""

    dataset: str = _argument(
        "a file, a folder, or weights and paths: '0.3 data/a 0.7 data/b'", path=READ
    )
    model: str | None = _option(
        "count its tokens and apply its chat template: a name in models/", path=READ
    )
    samples: int = _option("records to show", 3, range=_AT_LEAST_0)
    set: tuple[str, ...] = _option(
        "a key of finetune, such as data_columns, dev_ratio, max_length; repeatable",
        (),
        metavar="KEY=VALUE",
    )
    convert: str | None = _option(
        "write train.json and dev.json with src and tgt", metavar="FOLDER", path=WRITE
    )
    force: bool = _option("replace existing output", False)


# The fields of a class come after those of its bases, from the last base to the first.
@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(PickleOptions, RunOptions, NodeOptions, ConfigOptions):
    """The options of ``finetune``."""

    job: ClassVar[str] = "finetune"


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(PickleOptions, RunOptions, NodeOptions, ConfigOptions):
    """The options of ``pretrain``."""

    job: ClassVar[str] = "pretrain"

    peak_tflops: float | None = _option(
        "peak TFLOPS of one device, to report utilization", range=_ABOVE_0
    )


@dataclass(frozen=True, kw_only=True)
class LogOptions(Options):
    """The logs of one of upstream's programs."""

    name: str | None = _option("logs go to runs/NAME (default: from the script or file)")

    def _problems(self, backend: str) -> Iterator[Problem]:
        yield from _name_problems(self.name)
        yield from super()._problems(backend)


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(NodeOptions, LogOptions):
    """The options of ``quantize``."""

    job: ClassVar[str] = "quantize"
    examples: ClassVar[str] = """\
examples:
  quantize --model smollm2-135m-instruct --set quant_type=weight_only_int8 --output models/x
  quantize --config my.json --model m --set smooth=true --output models/m-a8w8
  quantize --config configs/jobs/dcu/quantize-a8w8.json     (on a DCU)

On a CPU our program writes a folder for infer, serve and export. On a DCU it is upstream's
program, which has no --force and overwrites existing output.
"""

    model: str | None = _option(
        "the model: a name in models/, or a path (model_name_or_path)", path=READ
    )
    output: str | None = _option(
        "output folder, such as models/NAME (output_dir)", metavar="FOLDER", path=WRITE
    )
    config: Path | None = _option(  # noqa: RUF009
        "JSON configuration with PaddleNLP's keys", path=READ
    )
    set: tuple[str, ...] = _option(
        "override a key of the configuration; repeatable", (), metavar="KEY=VALUE"
    )
    force: bool = _option("replace existing output", False)

    def _problems(self, backend: str) -> Iterator[Problem]:
        flags = [
            spec.flag
            for spec in specs(QuantizeOptions)
            if spec.name in ("ranks", "nnodes", "master", "rank", "allow_bf16", "name")
            and getattr(self, spec.name) != spec.default
        ]
        if backend == "cpu" and flags:
            yield Problem(
                "a CPU quantizes in one process, which writes no log",
                ", ".join(flags),
                "remove it; it is for upstream's program, on a DCU",
            )
        yield from super()._problems(backend)


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(NodeOptions, LogOptions):
    """The options that a recipe leaves to its caller."""

    job: ClassVar[str] = "run"

    name: str | None = _option("output folder runs/NAME (default: the recipe's name)")
    ranks: int = _option("processes, one per device (default: the recipe's)", 0, range=_AT_LEAST_1)
    model: str | None = _option("a name in models/, instead of the recipe's model")

    @property
    def model_name(self) -> str:
        """The model's name without its folder; empty for the recipe's own."""
        return (self.model or "").removeprefix("models/").rstrip("/")


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions(NodeOptions, LogOptions):
    """The options of ``upstream``."""

    job: ClassVar[str] = "upstream"
    examples: ClassVar[str] = """\
examples:
  upstream run_finetune.py config/llama/lora_argument.json --bf16 false --fp16 true
  upstream --ranks 8 run_pretrain.py configs/jobs/dcu/pretrain-pp8.json
  upstream predict/predictor.py --model_name_or_path models/m --dtype float16

Our options come before SCRIPT. A JSON file is searched in the workspace, then in llm/.
Relative paths start in the workspace.
"""

    unpatched: bool = _option(
        "run without our patches (docs/recipes.md), including what fails there", False
    )
    script: str = _argument("path below llm/, as run_finetune.py")
    arguments: tuple[str, ...] = _argument(
        "arguments of the script, passed on unchanged", (), metavar="ARGUMENT"
    )

    def _problems(self, backend: str) -> Iterator[Problem]:
        if problem := deprecated_flags.misplaced_script(self.script, self.arguments):
            yield problem
        yield from super()._problems(backend)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(PickleOptions, ModelOptions):
    """The options of ``export``."""

    job: ClassVar[str] = "export"
    examples: ClassVar[str] = """\
examples:
  export --model smollm2-135m-instruct --adapter try1 --merge --output models/mine
  export --model smollm2-135m-instruct --static --output exported/smollm2
  export --model smollm2-135m-instruct --adapter try1 --static --output exported/mine
  export --model smollm2-135m-instruct --adapter try1 --format huggingface --output exported/hf
  export --model smollm2-135m-instruct --format gguf --precision q8_0 --output exported/gguf
  export --model smollm2-135m-instruct --adapter try1 --format peft --output exported/peft
"""

    merge: bool = _option("merge the adapter into the weights", False)
    static: bool = _option(
        "export a static graph too, for infer --engine static (merges --adapter)", False
    )
    format: str | None = _option(
        "write a model for other tools (merges --adapter), or the adapter alone for peft",
        choices=("huggingface", "gguf", "peft", "paddlenlp"),
    )
    precision: str | None = _option(
        "with --format: type of the weights (default: as they are stored)",
        choices=("float32", "float16", "bfloat16", "q8_0"),
    )
    output: str = _option("output folder, such as models/NAME", ..., metavar="FOLDER", path=WRITE)
    force: bool = _option("replace existing output", False)

    def _problems(self, backend: str) -> Iterator[Problem]:
        if not (self.merge or self.static or self.format):
            remedy = "--merge merges an adapter, --static makes a static graph, --format "
            remedy += "huggingface or gguf writes a model for other tools"
            yield Problem("--merge, --static or --format is required", "export", remedy)
        yield from self._format_problems()
        if self.merge and not self.adapter:
            remedy = "--adapter RUN, or leave --merge out"
            yield Problem("--merge requires --adapter", "export", remedy)
        if self.static and backends.device(backend) != "cpu":
            message = "--static makes a graph for a CPU; a DCU needs upstream's"
            remedy = "./inv export --backend dcu --recipe export-block-fp16"
            yield Problem(message, "export", remedy)
        if not self.output.strip():
            yield Problem("--output is empty", "export", "--output models/NAME")

    def _format_problems(self) -> Iterator[Problem]:
        """Yield the options that contradict ``--format``."""
        form, precision = self.format, self.precision
        if form and (self.merge or self.static):
            option = "--merge" if self.merge else "--static"
            remedy = f"leave {option} out; --format merges --adapter, except for peft"
            yield Problem(f"--format cannot be combined with {option}", "export", remedy)
        if form == "peft" and not self.adapter:
            message = "--format peft requires --adapter: it exports the adapter alone"
            yield Problem(message, "export", "--adapter RUN")
        if form == "peft" and precision:
            message = "--format peft does not take --precision: an adapter is written in float32"
            yield Problem(message, "export", "leave --precision out")
        elif precision == "q8_0" and form not in (None, "gguf"):
            message = f"--precision q8_0 is for --format gguf, not {form}"
            yield Problem(message, "export", "--precision bfloat16, or ./inv quantize")
        if precision and not form:
            message = "--precision requires --format"
            yield Problem(message, "export", "--format huggingface, gguf or paddlenlp")


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """The input of ``infer``."""

    group: ClassVar[str] = "input (one of them)"

    prompt: str | None = _option("prompt; - reads it from standard input", metavar="TEXT")
    input: str | None = _option(
        "prompts, one JSON object per line; - reads standard input", metavar="FILE", path=READ
    )
    chat: bool = _option("interactive: /reset starts over, /exit or Ctrl-D leaves", False)
    benchmark: bool = _option("measure speed and memory on random prompts", False)


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(Options):
    """The benchmark of ``infer``."""

    group: ClassVar[str] = "benchmark"

    source_length: int = _option("prompt tokens", 300, range=_AT_LEAST_1)
    rounds: int = _option("runs after a warm-up", 3, range=Range(low=1, high=1000))


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(DtypeOptions):
    """The decoding of ``infer``."""

    group: ClassVar[str] = "decoding"

    decode: str | None = _option(
        "decoding strategy (default: sampling if --temperature, --top-k or --top-p is given, "
        "else greedy)",
        choices=("greedy", "sampling"),
    )
    temperature: float | None = _option("sampling: above 0 (default: 1.0)", range=_UP_TO_1E9)
    top_k: int | None = _option(
        "sampling: the K most likely tokens (default: all)",
        metavar="K",
        range=Range(low=0, high=10**9),
    )
    top_p: float | None = _option(
        "sampling: cumulative probability (default: 1.0)",
        metavar="P",
        range=Range(above=0, high=1),
    )
    repetition_penalty: float | None = _option("default: the model's, else none", range=_UP_TO_1E9)
    seed: int = _option("random seed (default: 0)", 0, range=Range(low=0, high=2**63 - 1))
    max_new_tokens: int = _option("most tokens of an answer", 128, range=Range(low=1, high=10**9))
    stop: tuple[str, ...] = _option("stop at this text; repeatable", (), metavar="TEXT")

    @property
    def sampling_flags(self) -> tuple[str, ...]:
        """The options that are set and imply sampling."""
        return tuple(
            f"--{name.replace('_', '-')}"
            for name in ("temperature", "top_k", "top_p")
            if getattr(self, name) is not None
        )

    def _range_problems(self) -> Iterator[Problem]:
        for problem in super()._range_problems():
            if problem.what.startswith("--temperature") and self.temperature == 0:
                remedy = "for the most likely token every time: --decode greedy"
                yield Problem(problem.what, problem.where, remedy)
            else:
                yield problem

    def _problems(self, backend: str) -> Iterator[Problem]:
        if self.decode == "greedy" and self.sampling_flags:
            message = f"--decode greedy cannot be combined with {', '.join(self.sampling_flags)}"
            yield Problem(message, self.job, "--decode sampling")
        if any(not stop for stop in self.stop):
            message = "--stop is empty: every answer would end at once"
            yield Problem(message, self.job, "--stop TEXT, or leave it out")
        yield from super()._problems(backend)


# The recipe that runs each of upstream's engines.
_ENGINE_RECIPES = {
    "fused": "infer-block-fp16, infer-block-static-fp16",
    "block": "infer-block-fp16, infer-block-static-fp16",
    "static": "infer-block-static-fp16",
}


@dataclass(frozen=True, kw_only=True)
class InferOptions(DecodingOptions, EngineOptions, BenchmarkOptions, PromptOptions, ModelOptions):
    """The options of ``infer``."""

    job: ClassVar[str] = "infer"
    examples: ClassVar[str] = """\
examples:
  infer --model smollm2-135m-instruct --prompt 'What is the capital of France?'
  infer --model smollm2-135m-instruct --adapter try1 --chat
  infer --model models/x --adapter runs/y --input in.jsonl --output out.jsonl

exit status: 0 done, 2 the request is wrong, 5 failed, 128+n stopped by signal n
"""

    engine: str = _option(
        "engine: static runs the output of export --static; native is this project's for CPUs; "
        "fused and block require a DCU",
        "dynamic",
        choices=("dynamic", "static", "native", "fused", "block"),
    )
    output: str | None = _option(
        "answers to --input, or benchmark results (default: standard output)",
        metavar="FILE",
        path=WRITE,
    )
    force: bool = _option("replace an existing --output and start over", False)
    logprobs: int | None = _option(
        "the N most likely tokens per position of --input",
        range=Range(low=0, high=_MAX_LOGPROBS),
    )
    batch_size: int = _option("batch size", 8, range=_BATCH_SIZES)
    system: str | None = _option("system message of prompts without one", metavar="TEXT")
    raw: bool = _option("do not apply the chat template", False)

    def _problems(self, backend: str) -> Iterator[Problem]:
        yield from self._engine_problems(on_cpu=backends.device(backend) == "cpu")
        yield from self._input_problems()
        yield from super()._problems(backend)

    def _engine_problems(self, *, on_cpu: bool) -> Iterator[Problem]:
        """Yield what is wrong with the engine: some are upstream's, and run by recipes."""
        engine = self.engine
        if engine in ("fused", "block") or (engine == "static" and not on_cpu):
            message = f"--engine {engine} requires the operators of a DCU"
            if not on_cpu:
                message = f"--engine {engine} is upstream's program on a DCU"
            remedy = f"./inv infer --backend dcu --recipe NAME, with {_ENGINE_RECIPES[engine]}"
            remedy += "; here: --engine dynamic or static" if on_cpu else "; or --engine dynamic"
            yield Problem(message, "infer", remedy)
        if engine == "static" and self.adapter:
            message = (
                "--engine static cannot be combined with --adapter: the graph contains its adapter"
            )
            remedy = "./inv export --model MODEL --adapter RUN --static --output exported/NAME"
            yield Problem(message, "infer", remedy)

    def _input_problems(self) -> Iterator[Problem]:
        inputs = {
            "--prompt": self.prompt is not None,
            "--input": self.input is not None,
            "--chat": self.chat,
            "--benchmark": self.benchmark,
        }
        chosen = [name for name, is_set in inputs.items() if is_set]
        if len(chosen) != 1:
            got = " and ".join(chosen) or "none of them"
            message = f"expected one of --prompt, --input, --chat and --benchmark, got {got}"
            yield Problem(message, "infer", "keep one of them, such as --prompt 'Who are you?'")
        to_file = "put the prompts into a file: --input prompts.jsonl"
        if self.output is not None and self.input is None and not self.benchmark:
            message = "--output requires --input; other answers go to standard output"
            yield Problem(message, "infer", to_file)
        if self.logprobs is not None and self.input is None:
            message = "--logprobs requires --input; other answers are text only"
            yield Problem(message, "infer", to_file)
        if self.raw and (self.system is not None or self.chat):
            message = "--raw cannot be combined with --system or --chat, which need the template"
            yield Problem(message, "infer", "leave --raw out")


@dataclass(frozen=True, kw_only=True)
class AccessOptions(Options):
    """Addresses, keys and limits of the server."""

    group: ClassVar[str] = "access"

    host: str = _option("address to listen on", serving.LOOPBACK, metavar="ADDRESS")
    port: int = _option("port to listen on", 8000, range=Range(low=0, high=65535))
    published: bool = _option(
        "the container's port is published on 127.0.0.1: listen on all its addresses", False
    )
    api_keys: str | None = _option(
        "file of API keys: KEY or NAME KEY per line; requests without one are rejected",
        metavar="FILE",
    )
    requests_per_minute: int = _option("limit per key (default: 0, none)", 0, range=_AT_LEAST_0)
    log_prompts: bool = _option("log the prompts", False)
    allowed_origin: tuple[str, ...] = _option(
        "allowed CORS origin, such as https://app.example; repeatable", (), metavar="ORIGIN"
    )

    def _problems(self, backend: str) -> Iterator[Problem]:
        for origin in self.allowed_origin:
            if not serving.is_origin(origin):
                yield Problem(
                    f'--allowed-origin "{origin}" is not an origin',
                    self.job,
                    "scheme, host and port only: --allowed-origin https://app.example:8443",
                )
        if self.host != "localhost" and not serving.is_address(self.host):
            message = f'--host must be an IP address, got "{self.host}"'
            yield Problem(message, self.job, "--host 127.0.0.1, or another address")
        yield from super()._problems(backend)


@dataclass(frozen=True, kw_only=True)
class CapacityOptions(Options):
    """Batch, queue and cache of the server."""

    group: ClassVar[str] = "capacity"

    batch_size: int = _option("largest batch", 8, range=_BATCH_SIZES)
    max_waiting: int = _option("longest queue", 64, range=Range(low=0, high=100_000))
    max_new_tokens: int = _option("longest answer in tokens", 1024, range=_AT_LEAST_1)
    max_prompt_tokens: int | None = _option(
        "longest prompt in tokens (default: the context length)", range=_AT_LEAST_1
    )
    cache_tokens: int = _option(
        "KV cache size in tokens, for all answers", 32768, range=_AT_LEAST_1
    )
    prefill_tokens: int = _option(
        "prefill chunk in tokens between two decoding steps", 128, range=_AT_LEAST_1
    )
    request_timeout: float = _option(
        "seconds per request, including the queue", 600.0, metavar="SECONDS", range=_ABOVE_0
    )
    grace: int = _option(
        "seconds to finish running requests after SIGTERM",
        GRACE_SECONDS,
        metavar="SECONDS",
        range=_AT_LEAST_0,
    )


@dataclass(frozen=True, kw_only=True)
class ServeOptions(CapacityOptions, AccessOptions, DtypeOptions, EngineOptions, ModelOptions):
    """The options of ``serve``."""

    job: ClassVar[str] = "serve"
    examples: ClassVar[str] = """\
examples:
  serve --model smollm2-135m-instruct
  serve --model models/x --adapter runs/y --api-keys keys.txt --host 0.0.0.0

Without --api-keys it answers this machine only. After SIGTERM it finishes running requests.

exit status: 0 done, 2 the request is wrong, 3 the port is taken, 5 failed, 128+n stopped by
signal n before everything was finished
"""

    served_model_name: str | None = _option(
        "name in the API (default: the folder's)", metavar="NAME"
    )

    def _problems(self, backend: str) -> Iterator[Problem]:
        name = self.served_model_name
        if name is not None and not _MODEL_NAME.fullmatch(name):
            message = f'--served-model-name "{name}" must consist of letters, digits and ._/+:-'
            remedy = "--served-model-name NAME, or leave it out for the folder's name"
            yield Problem(message, "serve", remedy)
        yield from super()._problems(backend)


OPTIONS: dict[str, type[Options]] = {
    options.job: options
    for options in (
        FetchOptions,
        FetchDataOptions,
        PrepareOptions,
        InspectOptions,
        DataOptions,
        FinetuneOptions,
        PretrainOptions,
        QuantizeOptions,
        ExportOptions,
        InferOptions,
        ServeOptions,
        UpstreamOptions,
    )
}
"""The class of each job's options."""


def node_problems(count: int, master: str, rank: int | None) -> list[Problem]:
    """Return what is wrong with the options about several nodes.

    Args:
        count: number of nodes.
        master: rendezvous address, as HOST:PORT; empty for none.
        rank: rank of this node; None if the rendezvous assigns it.
    """
    problems = _master_problems(master, count) if count > 1 else []
    if rank is not None and not -1 <= rank < count:
        message = f"--rank must be in 0 … {count - 1}, got {rank}"
        problems.append(Problem(message, "--rank", "--rank N, with another N on each node, from 0"))
    return problems


def _master_problems(master: str, count: int) -> list[Problem]:
    host, _, port = master.removeprefix(_ETCD).rpartition(":")
    if not host or not re.fullmatch(r"\d+", port):
        message = f"--nnodes {count} requires --master, where the nodes meet"
        remedy = "--master HOST:PORT with an address of node 0, or PADDLE_MASTER"
        return [Problem(message, f"--master {master}".strip(), remedy)]
    if ":" in host or "/" in host:
        message = f'Paddle\'s launcher requires a name or an IPv4 address, got "{host}"'
        return [Problem(message, f"--master {master}", "--master HOST:PORT")]
    if not 0 < int(port) < 65536:
        message = f"the port of --master must be in 1 … 65535, got {port}"
        return [Problem(message, f"--master {master}", "--master HOST:PORT")]
    return []
