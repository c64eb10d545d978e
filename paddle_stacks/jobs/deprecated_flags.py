"""Deprecated and misspelt flags in published instructions, with their replacements.

Upstream's parser accepts abbreviated options, so a flag that does not exist can be taken for
another one. These are rejected with the right flag before anything starts.
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
    """An option that upstream's programs do not have, or no longer have.

    Args:
        name: its name without dashes.
        right: the replacement; ``{value}`` stands for the option's value.
        why: an explanation; may be empty.
    """

    name: str
    right: str
    why: str = ""

    def problem(self, written: str, value: str, where: str) -> Problem:
        """Return the problem of using the option.

        Args:
            written: the option with its dashes.
            value: its value; may be empty.
            where: name of the program.
        """
        right = self.right.replace("{value}", value or "VALUE")
        why = f" ({self.why})" if self.why else ""
        return Problem(f"{written} is not an option", where, f"write {right}{why}")


# Wrong in all versions of upstream's programs.
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

# The same names as configuration keys.
_KEYS = {"eval_step": "eval_steps", "save_step": "save_steps", "intokens": "zero_padding"}

# Only in some versions of upstream's predict/*.py; the source in the image decides.
_SINCE_2025 = ("append_attn", "total_max_length", "speculate_method", "output_via_mq")

# Options of Paddle's launcher, which `upstream` starts itself.
_LAUNCHER = {
    **dict.fromkeys(("gpus", "devices", "npus", "xpus", "selected_gpus"), "--ranks {count}"),
    "nproc_per_node": "--ranks {value}",
    "log_dir": "--name NAME (logs are in runs/NAME/)",
    "ips": "--master HOST:PORT --nnodes N --rank N",
    "job_id": "--name NAME",
}

# Scripts that instructions name without their folder, and renamed options.
_SCRIPT_FOLDERS = {
    name: f"predict/{name}" for name in ("predictor.py", "export_model.py", "flask_server.py")
}
_RENAMED = {"--inference_mode": "--mode"}

_PREDICTOR = "./inv recipes --backend dcu lists the recipes that run upstream's program"

# Upstream's options and the corresponding ones of our jobs.
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

# Other tools' names of options. ``KEY=`` is a configuration key.
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
    """Return the problems of the options of one of upstream's scripts.

    Args:
        words: the words after the script.
        where: name of the script, for messages.
        declares: returns whether the script has an option of this name.
    """
    problems = []
    for index, word in enumerate(words):
        match = re.fullmatch(r"(-{1,3})([A-Za-z]\w*)(?:=(.*))?", word, re.DOTALL)
        if not match:
            continue
        dashes, name, value = match[1], match[2], match[3] or _value(words, index)
        if name in FLAGS:
            problems.append(FLAGS[name].problem(dashes + name, value, where))
        elif len(dashes) == 3:
            problems.append(Problem(f"{word} is not an option", where, f"write --{name}"))
        elif name in _SINCE_2025 and not declares(name):
            problems.append(_too_new(name, where))
        elif name == "cachekv_int8_type" and value not in ("static", "dynamic"):
            message = f"--cachekv_int8_type must be static or dynamic, got {value or 'nothing'}"
            problems.append(Problem(message, where, _STATIC_OR_DYNAMIC))
        elif name == "mode" and value not in ("static", "dynamic", ""):
            message = f"--mode must be static or dynamic, got {value}"
            problems.append(Problem(message, where, "--mode dynamic"))
    return problems


def key_problems(keys: Iterable[str], where: Callable[[str], str]) -> list[Problem]:
    """Return the problems of renamed configuration keys.

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
    """Return the problem if the first word of an ``upstream`` command line is not a script.

    Args:
        word: the first word.
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
    """Return our option that corresponds to one of upstream's or of another tool.

    Args:
        job: name of the job.
        option: the other option.

    Returns:
        ``--option``, or ``--set KEY=`` for a configuration key; empty if there is none.
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
    """Return the problem of a script without its folder, with the complete right command.

    Args:
        script: the script.
        words: the words after it.
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
    """Return a remedy for an option that our job does not have; empty if none is known.

    Args:
        job: name of the job.
        option: the option.
    """
    name = option.lstrip("-").partition("=")[0].replace("-", "_")
    if right := replacement(job, option):
        return f"write {right}VALUE" if right.endswith("=") else f"write {right}"
    if job not in _OURS or name not in _UPSTREAMS_ALONE:
        return ""
    script = "predict/predictor.py" if job == "infer" else "predict/export_model.py"
    flag = FLAGS[name].right.replace("{value}", "VALUE") if name in FLAGS else f"--{name}"
    return f"{flag} is an option of upstream's {script}: {_PREDICTOR}"


def _value(words: Sequence[str], index: int) -> str:
    following = words[index + 1] if index + 1 < len(words) else ""
    return "" if following.startswith("-") else following


def _too_new(name: str, where: str) -> Problem:
    remedy = "remove it: only later versions of upstream have it"
    if name == "total_max_length":
        remedy += "; this one uses 8192"
    return Problem(f"--{name} is not an option of the source in this image", where, remedy)
