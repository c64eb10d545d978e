"""What documents tell people to write, and what is right: one table for every parser.

Upstream's own parser takes an unambiguous beginning of an option for the option, so a
documented flag that does not exist can also be one that does by accident. Whoever
wrote it is told the right one, before anything is started.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from paddle_stacks.errors import Problem
from paddle_stacks.jobs.schema.keys import SCHEMAS

__all__ = [
    "FLAGS",
    "Flag",
    "flag_problems",
    "key_problems",
    "misplaced_script",
    "ours",
    "replacement",
    "script_problem",
]

_STATIC_OR_DYNAMIC = (
    "static is upstream's advice, with a checkpoint that was quantized as a8w8c8; "
    "dynamic takes any model and is no longer maintained"
)


@dataclass(frozen=True)
class Flag:
    """An option that upstream's programs do not have, or do not have any more.

    Args:
        name: as it is written, without its dashes.
        right: what to write instead; ``{value}`` is the value that was given.
        why: what a person should know about it; may be empty.
    """

    name: str
    right: str
    why: str = ""

    def problem(self, written: str, value: str, where: str) -> Problem:
        """Return what to say about it.

        Args:
            written: with its dashes.
            value: what follows it; may be empty.
            where: the program that it was given to.
        """
        right = self.right.replace("{value}", value or "VALUE")
        why = f" ({self.why})" if self.why else ""
        return Problem(f"there is no option {written}", where, f"write {right}{why}")


# What is wrong for upstream's programs, whatever their version.
FLAGS: dict[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag("inference_mode", "--mode {value}", "--inference_model, which takes no mode, is real"),
        Flag("cachekv_int8", "--cachekv_int8_type static|dynamic", _STATIC_OR_DYNAMIC),
        Flag("eval_step", "--eval_steps {value}"),
        Flag("save_step", "--save_steps {value}"),
        Flag("intokens", "--zero_padding {value}", "upstream's own new name for it"),
    )
}

# The same names, as the keys of a configuration.
_KEYS = {"eval_step": "eval_steps", "save_step": "save_steps", "intokens": "zero_padding"}

# Real in some versions of upstream's predict/*.py only; the source in the image decides.
_SINCE_2025 = ("append_attn", "total_max_length", "speculate_method", "output_via_mq")

# Options of Paddle's launcher, which `upstream` starts itself.
_LAUNCHER = {
    **dict.fromkeys(("gpus", "devices", "npus", "xpus", "selected_gpus"), "--ranks {count}"),
    "nproc_per_node": "--ranks {value}",
    "log_dir": "--name NAME (logs are in runs/NAME/)",
    "ips": "--master HOST:PORT --nnodes N --rank N",
    "job_id": "--name NAME",
}

# Scripts that documents name without their folder, and options that are only called otherwise.
_SCRIPT_FOLDERS = {
    name: f"predict/{name}" for name in ("predictor.py", "export_model.py", "flask_server.py")
}
_RENAMED = {"--inference_mode": "--mode"}

_PREDICTOR = "./inv recipes --backend dcu lists what runs upstream's program"

# Upstream's spellings, and ours, where a job of ours is asked for.
_OURS: dict[str, dict[str, str]] = {
    "infer": {
        "model_name_or_path": "--model",
        "lora_path": "--adapter",
        "data_file": "--input",
        "output_file": "--output",
        "max_length": "--max-new-tokens",
        "src_length": "--source-length",
        "batch_size": "--batch-size",
        "decode_strategy": "--decode",
        "top_k": "--top-k",
        "top_p": "--top-p",
        "repetition_penalty": "--repetition-penalty",
    },
    "export": {
        "model_name_or_path": "--model",
        "lora_path": "--adapter",
        "output_path": "--output",
    },
}

# What people type: other tools' names of an option. ``KEY=`` is a key of the configuration.
_ALIASES: dict[str, dict[str, str]] = {
    "": {
        **dict.fromkeys(("gpu", "gpus", "card", "cards", "device", "device_ids"), "--devices"),
        **dict.fromkeys(("config_file", "cfg"), "--config"),
        **dict.fromkeys(("dryrun", "check"), "--dry-run"),
        **dict.fromkeys(("verbose", "trace"), "--debug"),
    },
    "finetune": {
        **dict.fromkeys(("data", "data_path", "dataset", "train_data"), "dataset_name_or_path="),
        **dict.fromkeys(("r", "lora_r"), "lora_rank="),
        **dict.fromkeys(("max_len", "max_seq_len"), "max_length="),
    },
    "pretrain": {
        **dict.fromkeys(("data", "data_path", "dataset", "corpus", "input"), "input_dir="),
        **dict.fromkeys(("max_len", "max_length", "max_seq_len"), "max_seq_length="),
    },
    "infer": {
        **dict.fromkeys(("ask", "message", "question", "text"), "--prompt"),
        **dict.fromkeys(("data", "dataset", "file", "prompts"), "--input"),
        **dict.fromkeys(("interactive", "i"), "--chat"),
        **dict.fromkeys(("lora", "peft", "adapter_path"), "--adapter"),
        **dict.fromkeys(("max_tokens", "n_predict", "max_new_token"), "--max-new-tokens"),
        **dict.fromkeys(("model_name", "model_path"), "--model"),
        "temp": "--temperature",
    },
    "serve": {
        **dict.fromkeys(("address", "bind", "ip"), "--host"),
        **dict.fromkeys(("adapter_path", "lora", "lora_path", "peft"), "--adapter"),
        **dict.fromkeys(("api_key", "key", "keys"), "--api-keys"),
        **dict.fromkeys(("max_model_len", "max_length"), "--max-prompt-tokens"),
        **dict.fromkeys(("max_num_seqs", "max_batch_size"), "--batch-size"),
        **dict.fromkeys(("max_tokens",), "--max-new-tokens"),
        **dict.fromkeys(("model_name", "model_name_or_path", "model_path"), "--model"),
        "name": "--served-model-name",
        "timeout": "--request-timeout",
    },
    "prepare": {
        **dict.fromkeys(("key", "json_keys", "text_key"), "--json-key"),
        **dict.fromkeys(("tokenizer", "tokenizer_name_or_path", "model_name"), "--model"),
        **dict.fromkeys(("data", "input_path"), "--input"),
        **dict.fromkeys(("output_prefix", "output_dir"), "--output"),
        "append_eod": "--append-eos",
    },
    "export": {
        **dict.fromkeys(("lora", "peft", "adapter_path"), "--adapter"),
        **dict.fromkeys(("out", "output_dir"), "--output"),
        "model_path": "--model",
    },
    "fetch": {
        **dict.fromkeys(("out", "output_dir", "dest"), "--output"),
        **dict.fromkeys(("source", "repo", "url"), "--from"),
    },
}
# Of every job with a configuration.
_KEY_ALIASES = {
    **dict.fromkeys(("base_model", "model", "model_name", "model_path"), "model_name_or_path"),
    **dict.fromkeys(("batch", "batch_size", "bs"), "per_device_train_batch_size"),
    **dict.fromkeys(("epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("grad_accum", "gradient_accumulation"), "gradient_accumulation_steps"),
    **dict.fromkeys(("learning_rate", "lr"), "learning_rate"),
    **dict.fromkeys(("iters", "steps"), "max_steps"),
    **dict.fromkeys(("warmup",), "warmup_steps"),
    **dict.fromkeys(("output", "output_dir"), "output_dir"),
    "wd": "weight_decay",
}
_CONFIGURED = ("finetune", "pretrain", "quantize")

_UPSTREAMS_ALONE = {
    *("inference_model", "mode", "inference_mode", "block_attn", "block_size"),
    *("cachekv_int8", "cachekv_int8_type", "quant_type", "model_prefix"),
    "use_flash_attention",
}


def flag_problems(
    words: Sequence[str],
    where: str,
    *,
    declares: Callable[[str], bool] = lambda _: True,
) -> list[Problem]:
    """Return what is wrong with the options for a script of upstream's.

    Args:
        words: what follows the script.
        where: the script, for a message.
        declares: whether the script that will run has an option of this name.
    """
    problems = []
    for index, word in enumerate(words):
        found = re.fullmatch(r"(-{1,3})([A-Za-z]\w*)(?:=(.*))?", word, re.DOTALL)
        if not found:
            continue
        dashes, name, value = found[1], found[2], found[3] or _value(words, index)
        if name in FLAGS:
            problems.append(FLAGS[name].problem(dashes + name, value, where))
        elif len(dashes) == 3:
            problems.append(Problem(f"there is no option {word}", where, f"write --{name}"))
        elif name in _SINCE_2025 and not declares(name):
            problems.append(_too_new(name, where))
        elif name == "cachekv_int8_type" and value not in ("static", "dynamic"):
            said = f"--cachekv_int8_type is {value or 'given nothing'}"
            problems.append(Problem(said, where, f"write static or dynamic: {_STATIC_OR_DYNAMIC}"))
        elif name == "mode" and value not in ("static", "dynamic", ""):
            problems.append(Problem(f"--mode is {value}", where, "write static or dynamic"))
    return problems


def key_problems(keys: Iterable[str], where: Callable[[str], str]) -> list[Problem]:
    """Return what is wrong with the names of a configuration's keys.

    Args:
        keys: the names.
        where: the place of a key, for a message.
    """
    return [
        Problem(f'"{key}" is called "{new}"', where(key), f'write "{new}"')
        for key in keys
        if (new := _KEYS.get(key))
    ]


def script_problem(word: str, following: Sequence[str]) -> Problem | None:
    """Return what is wrong with the first word of a command line for ``upstream``, or None.

    Args:
        word: where a script is expected.
        following: the words after it.
    """
    name, _, value = word.lstrip("-").partition("=")
    if word.startswith("-") and name in _LAUNCHER:
        value = value or (following[0] if following else "")
        right = _LAUNCHER[name].replace("{count}", str(len(value.strip("'\"").split(","))))
        remedy = f"write {right.replace('{value}', value or 'N')}"
        if "--ranks" in right:
            remedy += "; which cards: ./inv JOB --devices, or HIP_VISIBLE_DEVICES"
        return Problem(f"{word.partition('=')[0]} is an option of the launcher", "upstream", remedy)
    if word == "-m" or word.startswith("paddle.distributed."):
        remedy = "write --ranks N SCRIPT: upstream starts it where there is more than one process"
        return Problem("Paddle's launcher is not a script", "upstream", remedy)
    if re.fullmatch(r"(.*/)?python[0-9.]*", word) or word.startswith("PYTHONPATH="):
        remedy = "give the script itself: upstream run_finetune.py CONFIG.json"
        return Problem(f'"{word}" is not a script: upstream brings Python', "upstream", remedy)
    if re.match(r"(\./)?(legacy|slm)/|(\./)?csrc/", word) or word.endswith("setup_hip.py"):
        return Problem(
            f"{word} is not below llm/",
            "upstream",
            "the operators are in the image: ./inv build --backend dcu compiles them "
            "(the folder is called legacy/ in older trees and slm/ in newer ones)",
        )
    return None


def replacement(job: str, option: str) -> str:
    """Return the option of ours that is meant by one of upstream's or of another tool.

    Args:
        job: the job.
        option: as it was written.

    Returns:
        ``--option``, or ``--set KEY=`` for a key of the configuration; empty: nothing known.
    """
    name = option.lstrip("-").partition("=")[0].replace("-", "_")
    right = _OURS.get(job, {}).get(name) or _ALIASES.get(job, {}).get(name)
    if not right and job in _CONFIGURED:
        keys = SCHEMAS[job].keys
        key = name if name in keys else _KEY_ALIASES.get(name, "")
        right = f"{key}=" if key in keys else ""
    right = right or _ALIASES[""].get(name, "")
    return f"--set {right}" if right.endswith("=") else right


def misplaced_script(script: str, words: Sequence[str]) -> Problem | None:
    """Return the whole right command for a script that documents name without its folder, or None.

    Args:
        script: as it was named.
        words: what follows it.
    """
    right = _SCRIPT_FOLDERS.get(script.removeprefix("./").removeprefix("llm/"))
    if right is None:
        return None
    faults = [f"{script} is {right} in PaddleNLP's llm/"]
    corrected: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in _RENAMED:
            faults.append(f"{name} is called {_RENAMED[name]}")
            name = _RENAMED[name]
        elif corrected[-1:] == ["--model_name_or_path"] and "/" in name:
            # The job has no network: a hub's name stands for a model that was fetched.
            name = f"models/{name.rpartition('/')[2].lower()}"
        corrected.append(f"{name}{equals}{value}")
    if "--help" not in words and not any(word.startswith("--dtype") for word in corrected):
        faults.append("--dtype is required")
        corrected += ["--dtype", "float16"]
    remedy = f"./inv upstream {right} --backend dcu -- {shlex.join(corrected)}"
    return Problem("; ".join(faults), script, remedy)


def ours(job: str, option: str) -> str:
    """Return what to write instead of an option that a job of ours lacks; empty: nothing known.

    Args:
        job: the job.
        option: as it was written.
    """
    name = option.lstrip("-").partition("=")[0].replace("-", "_")
    if right := replacement(job, option):
        return f"write {right}VALUE" if right.endswith("=") else f"write {right}"
    if job not in _OURS or name not in _UPSTREAMS_ALONE:
        return ""
    script = "predict/predictor.py" if job == "infer" else "predict/export_model.py"
    meant = FLAGS[name].right.replace("{value}", "VALUE") if name in FLAGS else f"--{name}"
    return f"{meant} is an option of upstream's {script}: {_PREDICTOR}"


def _value(words: Sequence[str], index: int) -> str:
    following = words[index + 1] if index + 1 < len(words) else ""
    return "" if following.startswith("-") else following


def _too_new(name: str, where: str) -> Problem:
    remedy = "leave it out: upstream has it in later versions only"
    if name == "total_max_length":
        remedy += ", and takes 8192 in this one"
    return Problem(f"--{name} is not an option of the source in this image", where, remedy)
