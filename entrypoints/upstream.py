"""The ``upstream`` job: runs a script of PaddleNLP's ``llm/`` from the source in the image.

Upstream expects to run and to write in ``llm/``, which is read-only here. The scripts run in the
workspace, import their modules through ``PYTHONPATH``, and their configurations are found by
name. The programs in ``predict/`` run with the patches of :mod:`entrypoints.upstream_patches`.

In images without the source, :mod:`entrypoints.fused` replaces the inference programs, and the
``quantize`` job replaces ``run_finetune.py`` with ``do_ptq``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from entrypoints.cpu import operators
from entrypoints.fused.options import parse as parse_fused
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import note, phase, report, warn
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.launcher import (
    AS_MODULE,
    Nodes,
    check_devices,
    environment,
    is_launched,
    launch,
    loopback,
    run_command,
)
from entrypoints.runtime.lock import locked
from entrypoints.upstream_patches import messages
from paddle_stacks.errors import MachineError, Problem, RequestError, did_you_mean
from paddle_stacks.jobs import backends, deprecated_flags, fused, fused_models, upstream
from paddle_stacks.jobs.arguments import as_upstream
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.jobs.options import QuantizeOptions, UpstreamOptions

__all__ = ["RESULT", "TREE", "Command", "command", "main", "run", "run_with_config"]

TREE = Path(os.environ.get("PADDLE_STACKS_UPSTREAM") or "/opt/PaddleNLP")
"""PaddleNLP's source in the image, read-only; tests use another folder."""

RESULT = "result.json"
LAUNCHER_LOG = "log"

_PATCHED = Path(__file__).parent / "upstream_patches" / "__main__.py"
_QUANTIZE = "run_finetune.py"
_SEARCH = "smooth_piecewise_search"
# Overrides of a configuration for a device.
_ON_A_CPU = {"device": "cpu", "fp16": False, "fp16_opt_level": "O1"}


@dataclass(frozen=True)
class Command:
    """A command to run.

    Args:
        program: a Python file and its arguments.
        environment: the complete environment.
        run: the run's folder in the workspace.
        ranks: processes on this node.
        nodes: the nodes.
        sends_tokens: whether it needs a folder and a queue for tokens.
        whose: the program's origin, for messages.
    """

    program: tuple[str, ...]
    environment: Mapping[str, str]
    run: Path
    ranks: int = 1
    nodes: Nodes = field(default_factory=Nodes)
    sends_tokens: bool = False
    whose: str = "upstream's"

    @property
    def logs(self) -> Path:
        """The folder for the output of each process under Paddle's launcher."""
        return self.run / (LAUNCHER_LOG + self.nodes.name)


def main(argv: list[str]) -> int:
    """Run the script in ``argv``, and return 0."""
    return run(parse(UpstreamOptions, argv))


def run(arguments: UpstreamOptions) -> int:
    """Check and execute a run, and return 0.

    Args:
        arguments: of ``upstream``.

    Raises:
        RequestError: the script does not exist, or fails with these arguments.
        MachineError: the image lacks the source, or there are too few devices.
        JobError: the script failed.
        Stopped: a signal was received, or the script was killed by one.
    """
    if _quantizes_here(arguments):
        return _quantize(arguments)
    prepared = command(arguments, os.environ)
    # The nodes of a run share its folder, and each has its own lock.
    with writing_below(prepared.run), locked(prepared.run, f".lock{prepared.nodes.name}"):
        (prepared.run / RESULT).unlink(missing_ok=True)
        phase(f"run {prepared.whose} {arguments.script}")
        begun = time.monotonic()
        _execute(prepared, f"{prepared.whose} {arguments.script}")
        with replacing_file(prepared.run / RESULT) as stream:
            seconds = round(time.monotonic() - begun, 1)
            done = {"script": arguments.script, "argv": prepared.program, "seconds": seconds}
            json.dump(done, stream)
            stream.write("\n")
    report("result", run=str(prepared.run), seconds=seconds)
    return 0


def run_with_config(job: str, script: str, argv: list[str]) -> int:
    """Run a job that uses an upstream script with a configuration, and return 0.

    Args:
        job: its name.
        script: the upstream script.
        argv: the job's arguments.
    """
    arguments = parse(QuantizeOptions, argv)
    if not (TREE / "llm").is_dir():
        raise RequestError(
            f"{job} requires upstream's program, which images for {backends.current()} lack",
            where=job,
            remedy=f"use ./inv {job} --backend dcu --recipe NAME (./inv recipes --backend dcu)",
        )
    return run(as_upstream(script, arguments))


def command(arguments: UpstreamOptions, environ: Mapping[str, str]) -> Command:
    """Check the arguments, and return the command."""
    if arguments.script.endswith(upstream.PREDICT) and not _has("predict/predictor.py"):
        return _own_command(arguments, environ)
    path = _find_script(arguments.script)
    words = _with_found_config(arguments.arguments)
    source = path.read_text(encoding="utf-8", errors="replace")
    nodes = Nodes.of(arguments, environ)
    predicts = path.parent.name == "predict"
    if predicts and not arguments.unpatched:
        words += _fitting_lengths(arguments.script, words)
    _check(arguments, words, source, nodes)
    words += _without_visualdl(words, source)
    words += _on_a_cpu(words, source) if predicts else []
    folder = upstream.run_folder(arguments)
    program = [str(path)]
    if re.search(r"^from \.", source, re.MULTILINE):
        # Part of a package with relative imports, so it must be run as a module.
        module = path.relative_to(TREE / "llm").with_suffix("").parts
        program = [str(AS_MODULE), ".".join(module)]
    if predicts and not arguments.unpatched:
        program = [str(_PATCHED), program[-1]]
    variables = environment(environ)
    if is_launched(arguments.ranks, nodes):
        check_devices(arguments.ranks, environ)
        variables |= loopback() if nodes.count == 1 else {}
    variables["PYTHONPATH"] = _python_path(environ)
    if predicts and _device() == "cpu":
        variables |= operators.variables(variables)
    return Command((*program, *words), variables, folder, arguments.ranks, nodes, predicts)


def _own_command(arguments: UpstreamOptions, environ: Mapping[str, str]) -> Command:
    """Return the command in images without upstream's program."""
    words = [*arguments.arguments, *_fitting_lengths(arguments.script, arguments.arguments)]
    options = upstream.options(arguments.script, words, _find_config)
    problems = upstream.faults(options, words, world=1)
    problems += fused.problems(options, Path(), on_dcu=False)
    problems += fused_models.problems(options, Path(), ours=True)
    if arguments.unpatched:
        message = "--unpatched requires upstream's program, which this image lacks"
        problems.append(Problem(message, "--unpatched", "leave it out"))
    if arguments.ranks > 1 or arguments.nnodes not in (None, 1):
        message = "this image's own program runs in one process"
        problems.append(Problem(message, "--ranks", "omit --ranks and --nnodes"))
    if problems:
        raise RequestError(problems)
    parse_fused(arguments.script, words)
    note("this image lacks upstream's source: entrypoints.fused runs the package's models")
    variables = environment(environ)
    variables |= operators.variables(variables)
    program = ("-m", "entrypoints.fused", arguments.script, *words)
    return Command(program, variables, upstream.run_folder(arguments), whose="our")


def _quantizes_here(arguments: UpstreamOptions) -> bool:
    """Return whether to quantize a model without upstream's program."""
    if Path(arguments.script).name != _QUANTIZE or _device() != "cpu":
        return False
    script = TREE / "llm" / _QUANTIZE
    if script.is_file() and "do_ptq" in script.read_text(encoding="utf-8", errors="replace"):
        return False
    words = _with_found_config(arguments.arguments)
    options = upstream.options(arguments.script, words, _find_config)
    return options.config is not None and options.on("do_ptq")


def _quantize(arguments: UpstreamOptions) -> int:
    """Replace ``run_finetune.py`` with ``do_ptq`` by the ``quantize`` job."""
    words = _with_found_config(arguments.arguments)
    options = upstream.options(arguments.script, words, _find_config)
    note("this image lacks upstream's source: the quantize job creates the checkpoint")
    if options.on(_SEARCH):
        note(f"without {_SEARCH}, which only upstream's program has")
    overrides = {
        key: value for key, value in options.values.items() if options.where(key) == f"--{key}"
    }
    changes = overrides | {**_ON_A_CPU, _SEARCH: False}
    line = ["--config", str(options.config), "--force"]
    for key, value in changes.items():
        line += ["--set", f"{key}={json.dumps(value)}"]
    folder = upstream.run_folder(arguments)
    with writing_below(folder), locked(folder):
        (folder / RESULT).unlink(missing_ok=True)
        status: int = importlib.import_module("entrypoints.quantize").run(line)
        with replacing_file(folder / RESULT) as stream:
            json.dump({"script": arguments.script, "argv": words}, stream)
    return status


def _has(script: str) -> bool:
    return (TREE / "llm" / script).is_file()


def _device() -> str:
    return backends.device(backends.current())


def _on_a_cpu(words: Sequence[str], source: str) -> list[str]:
    """Return the option for the device, if it is not set and upstream's default differs."""
    is_set = any(word.partition("=")[0] == "--device" for word in words)
    declared = re.search(r"^    device\s*:|PredictorArgument", source, re.MULTILINE)
    return [] if is_set or not declared or _device() != "cpu" else ["--device", "cpu"]


def _fitting_lengths(script: str, words: Sequence[str]) -> list[str]:
    """Return options for lengths, if they are not set and upstream's defaults exceed the model."""
    options = upstream.options(script, words, _find_config)
    lengths = fused.fitting_lengths(options, Path())
    if lengths:
        note(f"upstream's default lengths exceed the model's context: using {' '.join(lengths)}")
    return lengths


def _find_script(name: str) -> Path:
    """Return a script below ``llm/``."""
    root = TREE / "llm"
    if not root.is_dir():
        raise MachineError(
            f"images for {backends.current()} do not contain PaddleNLP's programs",
            where=str(root),
            remedy="use an image for DCUs: ./inv build --backend dcu",
        )
    path = root / name.removeprefix("llm/")
    if path.is_file() and path.suffix == ".py" and root in path.resolve().parents:
        return path
    scripts = sorted(str(path.relative_to(root)) for path in root.rglob("*.py"))
    ends = [script for script in scripts if Path(script).name == Path(name).name]
    hint = f'did you mean "{ends[0]}"?' if ends else did_you_mean(name, scripts)
    top = ", ".join(script for script in scripts if "/" not in script)
    raise RequestError(
        f"the script {name} does not exist",
        where=str(root),
        remedy=f"{hint} scripts: {top}".strip(),
    )


def _with_found_config(words: Sequence[str]) -> list[str]:
    """Return the arguments with the path of upstream's configuration, if one is used."""
    if not words or not words[0].endswith(".json"):
        return list(words)
    config = _find_config(words[0])
    if config is None:
        configs = sorted(str(p.relative_to(TREE / "llm")) for p in (TREE / "llm").rglob("*.json"))
        same = [name for name in configs if Path(name).name == Path(words[0]).name]
        near = [name for name in same if "llama" in name] or same
        hint = f'did you mean "{near[0]}"?' if near else did_you_mean(words[0], configs)
        raise RequestError(
            f"the configuration {words[0]} exists neither in the workspace nor in llm/",
            where="upstream",
            remedy=hint or "use the path of a JSON file in the workspace or in llm/",
        )
    return [str(config), *words[1:]]


def _find_config(name: str) -> Path | None:
    candidates = (Path(name), TREE / "llm" / name)
    return next((path for path in candidates if path.is_file()), None)


def _check(arguments: UpstreamOptions, words: Sequence[str], source: str, nodes: Nodes) -> None:
    options = upstream.options(arguments.script, words, _find_config)
    own = words[1:] if options.config is not None else words

    def declares(name: str) -> bool:
        return re.search(rf"^    {name}\s*:", source, re.MULTILINE) is not None

    world = arguments.ranks * nodes.count
    problems = upstream.faults(options, own, world=world, declares=declares)
    backend = backends.current()
    problems += fused.problems(
        options,
        Path(),
        on_dcu=backend != "cpu",
        gpu=_device() == "gpu",
        patched=not arguments.unpatched,
    )
    if options.script.endswith(upstream.PREDICT):
        problems += fused_models.problems(options, Path(), ours=False)
    needs_bf16 = upstream.wants_bf16(options)
    if needs_bf16 and backend == "dcu" and not arguments.allow_bf16:
        right = "--dtype float16" if needs_bf16 == "dtype" else "--bf16 false --fp16 true"
        problems.append(
            Problem(
                f'"{needs_bf16}" requires bfloat16, which the DCU kernels of Paddle 3.0.0b2 lack',
                options.where(needs_bf16),
                f"add {right}; to try bfloat16 anyway: --allow-bf16",
            )
        )
    _check_packages(options)
    if options.config is not None:
        key_problems = deprecated_flags.key_problems(
            [key for key in options.values if not options.where(key).startswith("--")],
            options.where,
        )
        if TREE in options.config.parents:
            # It is read-only, and upstream's parser accepts it.
            for problem in key_problems:
                warn(f"{problem.where}: {problem.what}")
        else:
            problems += key_problems
    if problems:
        raise RequestError(problems)


def _without_visualdl(words: Sequence[str], source: str) -> list[str]:
    """Return the option that disables a logger which the image lacks.

    By default upstream's trainer logs to all known loggers, including VisualDL.
    """
    if "TrainingArguments" not in source or importlib.util.find_spec("visualdl"):
        return []
    config = _find_config(words[0]) if words and words[0].endswith(".json") else None
    is_set = any(word.partition("=")[0] == "--report_to" for word in words)
    if is_set or (config is not None and '"report_to"' in config.read_text(errors="replace")):
        return []
    note("using --report_to none, because the image lacks VisualDL")
    return ["--report_to", "none"]


def _check_packages(options: upstream.Options) -> None:
    """Reject options that require missing packages, before models are loaded."""
    quantizes = any(options.on(key) for key in ("do_ptq", "do_gptq", "do_qat", "load_quant_model"))
    if quantizes and importlib.util.find_spec("paddleslim") is None:
        raise MachineError(
            "upstream's quantization requires PaddleSlim, which this image lacks",
            where=options.script,
            remedy="use an image for DCUs: ./inv build --backend dcu",
        )


def _python_path(environ: Mapping[str, str]) -> str:
    """Return ``PYTHONPATH`` with upstream's source and without this project."""
    own = str(Path(__file__).resolve().parents[1])
    paths = [path for path in environ.get("PYTHONPATH", "").split(":") if path and path != own]
    return ":".join([str(TREE), str(TREE / "llm"), *paths])


def _execute(prepared: Command, label: str) -> None:
    with contextlib.ExitStack() as stack:
        variables = dict(prepared.environment)
        if prepared.sends_tokens:
            variables[messages.VARIABLE] = str(stack.enter_context(messages.made()))
        if not is_launched(prepared.ranks, prepared.nodes):
            run_command([sys.executable, "-u", *prepared.program], variables, label, prepared.logs)
            return
        launch(
            prepared.program,
            variables,
            label,
            prepared.logs,
            ranks=prepared.ranks,
            nodes=prepared.nodes,
            job=prepared.run.name,
        )
