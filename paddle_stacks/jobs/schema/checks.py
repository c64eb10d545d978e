"""Checks of combinations of keys, and of keys that a backend does not support.

All of these fail in upstream's program too: most of them after the model has been loaded, some
at the first checkpoint, and one hangs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import corpus
from paddle_stacks.jobs.schema.keys import FUSED_KEYS, Schema

__all__ = ["Draft", "Fault", "contradictions", "unfit_for_device"]


@dataclass(frozen=True)
class Draft:
    """A configuration whose values are valid individually.

    Args:
        schema: the schema of the job.
        values: all keys, with defaults resolved.
        explicit: the keys that are set.
        where: returns the place of a key, for messages.
    """

    schema: Schema
    values: Mapping[str, Any]
    explicit: frozenset[str]
    where: Callable[[str], str]

    def fault(self, message: str, key: str, remedy: str) -> Fault:
        """Return a fault at the place of ``key``."""
        return key, Problem(message, self.where(key), remedy)


Fault = tuple[str, Problem]  # a key and its problem


def contradictions(draft: Draft) -> list[Fault]:
    """Return the faults of combinations of keys, on any backend."""
    return [fault for check in _CHECKS[draft.schema.job] for fault in check(draft)]


def unfit_for_device(draft: Draft, device: str) -> tuple[list[Fault], list[str]]:
    """Return the keys that a device does not support, and ``KEY=VALUE`` to change them."""
    return _unfit_for_cpu(draft) if device == "cpu" else (_unfit_for_accelerator(draft), [])


def _required(draft: Draft) -> Iterator[Fault]:
    for key, example in _EXAMPLES[draft.schema.job].items():
        if not draft.values[key]:
            remedy = f'write "{key}": "{example}", or --set {key}={example}'
            yield draft.fault(f'"{key}" is missing', key, remedy)


def _trains(draft: Draft) -> Iterator[Fault]:
    if not draft.values["do_train"]:
        yield draft.fault('"do_train" is false, but this job trains', "do_train", "set it to true")


def _refused(draft: Draft) -> Iterator[Fault]:
    for name in sorted(draft.explicit):
        key, value = draft.schema.keys[name], draft.values[name]
        if key.refused and value != key.default:
            message = f'"{name}" is not supported by this job: {key.refused}'
            yield draft.fault(message, name, "remove it")


def _precision(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["fp16"] and values["bf16"]:
        yield draft.fault('"fp16" and "bf16" exclude each other', "bf16", "set one to false")
    if values["fp16_opt_level"] == "O2" and not (values["fp16"] or values["bf16"]):
        yield draft.fault(
            '"fp16_opt_level" "O2" requires "fp16" or "bf16"', "fp16_opt_level", 'set it to "O1"'
        )


def _lengths(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["src_length"] >= values["max_length"]:
        yield draft.fault(
            f'"src_length" ({values["src_length"]}) leaves no room for an answer '
            f'in "max_length" ({values["max_length"]})',
            "src_length",
            '"max_length" is for question and answer together',
        )
    if values["greedy_zero_padding"] and not values["zero_padding"]:
        yield draft.fault(
            '"greedy_zero_padding" requires "zero_padding"',
            "greedy_zero_padding",
            "set both to true",
        )


def _lora(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["lora"]:
        return
    for key in ("merge", "lora_path", "rslora", "lora_use_mixer"):
        if values[key]:
            yield draft.fault(f'"{key}" requires "lora"', key, 'set "lora" to true or remove it')


def _evaluation(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["do_eval"] and values["evaluation_strategy"] == "no":
        yield draft.fault(
            '"do_eval" is true and "evaluation_strategy" is "no"; upstream would then evaluate '
            "at every logging step",
            "evaluation_strategy" if "evaluation_strategy" in draft.explicit else "do_eval",
            'set "evaluation_strategy" to "epoch" or "steps", or "do_eval" to false',
        )


def _best_model(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if not values["load_best_model_at_end"]:
        return
    evaluation, save = values["evaluation_strategy"], values["save_strategy"]
    if evaluation == "no" or evaluation != save:
        yield draft.fault(
            f'"load_best_model_at_end" requires the same "evaluation_strategy" ("{evaluation}") '
            f'and "save_strategy" ("{save}"), and not "no"',
            "load_best_model_at_end",
            'set both to "epoch", or both to "steps"',
        )
    elif evaluation == "steps" and values["save_steps"] % values["eval_steps"]:
        yield draft.fault(
            f'"load_best_model_at_end" requires "save_steps" ({values["save_steps"]}) '
            f'to be a multiple of "eval_steps" ({values["eval_steps"]})',
            "load_best_model_at_end",
            f'"save_steps": {values["eval_steps"]}',
        )


def _steps(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["max_steps"] == 0:
        yield draft.fault(
            '"max_steps" is 0: there is nothing to train',
            "max_steps",
            "set a number of steps, or -1 for num_train_epochs",
        )


def _schedule(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    steps = values["max_steps"]
    if steps == -1:
        yield draft.fault(
            '"max_steps" is required: a pretraining has no epochs',
            "max_steps",
            'write "max_steps": 1000; ./inv inspect CORPUS shows the number of tokens',
        )
    if values["min_learning_rate"] > values["learning_rate"]:
        yield draft.fault(
            f'"min_learning_rate" ({values["min_learning_rate"]:g}) is above "learning_rate" '
            f"({values['learning_rate']:g})",
            "min_learning_rate" if "min_learning_rate" in draft.explicit else "learning_rate",
            f"usually a tenth: --set min_learning_rate={values['learning_rate'] / 10:g}",
        )
    last = values["decay_steps"] or steps
    warmup = values["warmup_steps"] or int(values["warmup_ratio"] * steps)
    if steps > 0 and warmup >= last:
        yield draft.fault(
            f"warm-up ({warmup} steps) must end before the decay does, at step {last}",
            "warmup_steps" if values["warmup_steps"] else "warmup_ratio",
            f"usually a hundredth of the steps: {max(1, last // 100)}",
        )


def _split(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    try:
        shares = corpus.shares(values["split"])
    except RequestError as error:
        yield draft.fault(error.problems[0].what, "split", 'such as "949,50,1"')
        return
    used = {"training": True, "evaluation": values["do_eval"], "test": values["do_predict"]}
    keys = {"training": "do_train", "evaluation": "do_eval", "test": "do_predict"}
    for (name, is_used), share in zip(used.items(), shares, strict=True):
        if is_used and not share:
            yield draft.fault(
                f'"split" leaves nothing for {name}, but "{keys[name]}" is true',
                "split",
                f'use a split such as "949,50,1", or set "{keys[name]}" to false',
            )


def _parallelism(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["sequence_parallel"] and values["tensor_parallel_degree"] < 2:
        yield draft.fault(
            '"sequence_parallel" requires "tensor_parallel_degree" of at least 2',
            "sequence_parallel",
            "set one of them",
        )
    sharding = values["sharding"]
    choices = ("", "stage1", "stage2", "stage3", "stage2 offload", "stage3 offload")
    if sharding not in choices:
        yield draft.fault(
            f'"sharding" cannot be {json.dumps(sharding)}',
            "sharding",
            "one of " + ", ".join(f'"{word}"' for word in choices),
        )
        sharding = ""
    if sharding.startswith(_DEEPER) and values["pipeline_parallel_degree"] > 1:
        yield draft.fault(
            'pipeline parallelism supports only "sharding" "stage1"',
            "sharding",
            "set it to stage1",
        )
    if values["virtual_pp_degree"] > 1 and values["pipeline_parallel_degree"] < 3:
        yield draft.fault(
            '"virtual_pp_degree" requires "pipeline_parallel_degree" of at least 3',
            "virtual_pp_degree",
            "set one of them",
        )
    elif values["virtual_pp_degree"] > 1:
        yield from _interleaving(draft)
    if values["sep_parallel_degree"] > 1 and values["context_parallel_degree"] > 1:
        yield draft.fault(
            '"sep_parallel_degree" and "context_parallel_degree" exclude each other',
            "context_parallel_degree",
            "remove one of them",
        )


def _interleaving(draft: Draft) -> Iterator[Fault]:
    """Yield the keys that are not multiples of the stages of an interleaved schedule."""
    stages = draft.values["pipeline_parallel_degree"]
    keys = ["gradient_accumulation_steps"]
    keys += ["per_device_eval_batch_size"] if draft.values["do_eval"] else []
    for key in keys:
        if draft.values[key] % stages:
            yield draft.fault(
                f'with virtual stages, "{key}" ({draft.values[key]}) must be a multiple of '
                f'"pipeline_parallel_degree" ({stages})',
                key,
                f'"{key}": {max(1, draft.values[key] // stages) * stages}',
            )


_DEEPER = ("stage2", "stage3")  # of sharding
_EXAMPLES = {
    "finetune": {
        "model_name_or_path": "smollm2-135m-instruct",
        "dataset_name_or_path": "data/demo",
    },
    "pretrain": {"model_name_or_path": "llama-nano", "input_dir": "data/corpus"},
    "quantize": {
        "model_name_or_path": "smollm2-135m-instruct",
        "output_dir": "models/smollm2-int8",
    },
}


def _quantizes(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if not values["do_ptq"]:
        yield draft.fault('"do_ptq" is false, but this job quantizes', "do_ptq", "set it to true")
    for method in ("shift", "smooth"):
        if values[f"{method}_all_linears"] and not values[method]:
            yield draft.fault(
                f'"{method}_all_linears" requires "{method}"',
                f"{method}_all_linears",
                f'set "{method}" too',
            )
    if "src_length" in draft.explicit:
        yield from _lengths(draft)
    for part in values["skip_list_names"] or ():
        if not isinstance(part, str) or not part:
            message = f'"skip_list_names" must contain parts of names, got {json.dumps(part)}'
            yield draft.fault(message, "skip_list_names", 'such as ["mlp.down_proj"]')
    if values["max_evaluate_steps"] == 0:
        message = '"max_evaluate_steps" is 0: there is nothing to measure'
        yield draft.fault(message, "max_evaluate_steps", "set a number of steps, or -1 for all")


_COMMON = (_required, _refused, _trains, _precision, _evaluation, _best_model, _steps)
_CHECKS: dict[str, tuple[Callable[[Draft], Iterator[Fault]], ...]] = {
    "finetune": (*_COMMON, _lengths, _lora),
    "pretrain": (*_COMMON, _schedule, _split, _parallelism),
    "quantize": (_required, _refused, _quantizes, _precision),
}


def _unfit_for_cpu(draft: Draft) -> tuple[list[Fault], list[str]]:
    values = draft.values
    changes: list[tuple[str, str, str]] = []
    if values["device"] != "cpu":
        changes.append(("device", "cpu", f'a CPU build does not support "{values["device"]}"'))
    if values["fp16"]:
        changes.append(("fp16", "false", "a CPU has no loss scaling for float16"))
    if values["bf16"] and values["fp16_opt_level"] == "O2":
        changes.append(("bf16", "false", "a CPU has no bfloat16 kernels for O2"))
    if values["fp16_opt_level"] == "O2":
        changes.append(("fp16_opt_level", "O1", "a CPU has no kernels for half precision at O2"))
    for key in FUSED_KEYS:
        if values[key]:
            changes.append((key, "false", "this kernel requires an accelerator"))
    if draft.schema.job == "pretrain" and str(values["sharding"]).startswith(_DEEPER):
        changes.append(("sharding", "stage1", "Paddle shards only the optimizer state on a CPU"))
    if values["weight_quantize_algo"]:
        changes.append(
            (
                "weight_quantize_algo",
                "null",
                "training on quantized weights requires an accelerator",
            )
        )
    faults = [
        draft.fault(
            f'"{key}" cannot be {json.dumps(values[key])} on a CPU: {why}', key, _set(key, value)
        )
        for key, value, why in changes
    ]
    return faults, [f"{key}={value}" for key, value, _ in changes]


def _unfit_for_accelerator(draft: Draft) -> list[Fault]:
    """Return the fault of an unsupported device: Paddle 3.0.0b2 calls a DCU ``gpu``."""
    device = draft.values["device"]
    if device.partition(":")[0] in ("gpu", "cpu"):
        return []
    message = f'"device" cannot be {json.dumps(device)} here: Paddle calls a DCU "gpu"'
    return [draft.fault(message, "device", _set("device", "gpu"))]


def _set(key: str, value: str) -> str:
    shown = value if value in ("false", "null") else f'"{value}"'
    return f"set it to {shown} in the file, or: --set {key}={value}"
