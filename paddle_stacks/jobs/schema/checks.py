"""Keys that contradict each other, and keys that a backend cannot honour.

Each of these fails in upstream's program too, most of them after the model has
been loaded, some of them at the first checkpoint, one of them never (it hangs).
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
    """A configuration whose values are right one by one.

    Args:
        schema: of the job.
        values: every key, defaults resolved.
        explicit: the keys that were written.
        where: the place of a key, for a message.
    """

    schema: Schema
    values: Mapping[str, Any]
    explicit: frozenset[str]
    where: Callable[[str], str]

    def fault(self, what: str, key: str, remedy: str) -> Fault:
        """Return a fault at the place of ``key``."""
        return key, Problem(what, self.where(key), remedy)


Fault = tuple[str, Problem]  # a key, and what is wrong with it


def contradictions(draft: Draft) -> list[Fault]:
    """Return what is wrong with the keys together, whatever the backend."""
    return [fault for check in _CHECKS[draft.schema.job] for fault in check(draft)]


def unfit_for_device(draft: Draft, device: str) -> tuple[list[Fault], list[str]]:
    """Return what the device cannot do, and the ``KEY=VALUE`` that mend it."""
    return _unfit_for_cpu(draft) if device == "cpu" else (_unfit_for_accelerator(draft), [])


def _required(draft: Draft) -> Iterator[Fault]:
    for key, example in _EXAMPLES[draft.schema.job].items():
        if not draft.values[key]:
            remedy = f'write "{key}": "{example}", or --set {key}={example}'
            yield draft.fault(f'"{key}" is missing', key, remedy)


def _trains(draft: Draft) -> Iterator[Fault]:
    if not draft.values["do_train"]:
        yield draft.fault('"do_train" is false, and this job trains', "do_train", "set it to true")


def _refused(draft: Draft) -> Iterator[Fault]:
    for name in sorted(draft.explicit):
        key, value = draft.schema.keys[name], draft.values[name]
        if key.refused and value != key.default:
            what = f'"{name}" is not offered by this job: {key.refused}'
            yield draft.fault(what, name, "remove it")


def _precision(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["fp16"] and values["bf16"]:
        yield draft.fault('"fp16" and "bf16" exclude each other', "bf16", "set one to false")
    if values["fp16_opt_level"] == "O2" and not (values["fp16"] or values["bf16"]):
        yield draft.fault(
            '"fp16_opt_level" "O2" needs "fp16" or "bf16"', "fp16_opt_level", 'set it to "O1"'
        )


def _lengths(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["src_length"] >= values["max_length"]:
        yield draft.fault(
            f'"src_length" ({values["src_length"]}) leaves no room for an answer '
            f'in "max_length" ({values["max_length"]})',
            "src_length",
            '"max_length" counts question and answer together',
        )
    if values["greedy_zero_padding"] and not values["zero_padding"]:
        yield draft.fault(
            '"greedy_zero_padding" needs "zero_padding"', "greedy_zero_padding", "set both to true"
        )


def _lora(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["lora"]:
        return
    for key in ("merge", "lora_path", "rslora", "lora_use_mixer"):
        if values[key]:
            yield draft.fault(f'"{key}" needs "lora"', key, 'set "lora" to true or remove it')


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
            f'"load_best_model_at_end" needs the same "evaluation_strategy" ("{evaluation}") '
            f'and "save_strategy" ("{save}"), and not "no"',
            "load_best_model_at_end",
            'set both to "epoch", or both to "steps"',
        )
    elif evaluation == "steps" and values["save_steps"] % values["eval_steps"]:
        yield draft.fault(
            f'"load_best_model_at_end" needs "save_steps" ({values["save_steps"]}) '
            f'to be a multiple of "eval_steps" ({values["eval_steps"]})',
            "load_best_model_at_end",
            f'"save_steps": {values["eval_steps"]}',
        )


def _steps(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["max_steps"] == 0:
        yield draft.fault(
            '"max_steps" is 0: nothing would be trained',
            "max_steps",
            "give a number of steps, or -1 for num_train_epochs",
        )


def _schedule(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    steps = values["max_steps"]
    if steps == -1:
        yield draft.fault(
            '"max_steps" is missing: text has no epochs, so nothing else ends a pretraining',
            "max_steps",
            'write "max_steps": 1000; ./inv inspect CORPUS says how many tokens there are',
        )
    if values["min_learning_rate"] > values["learning_rate"]:
        yield draft.fault(
            f'"min_learning_rate" ({values["min_learning_rate"]:g}) is above "learning_rate" '
            f"({values['learning_rate']:g})",
            "min_learning_rate" if "min_learning_rate" in draft.explicit else "learning_rate",
            f"a tenth is usual: --set min_learning_rate={values['learning_rate'] / 10:g}",
        )
    last = values["decay_steps"] or steps
    warmup = values["warmup_steps"] or int(values["warmup_ratio"] * steps)
    if steps > 0 and warmup >= last:
        yield draft.fault(
            f"the rate would still be rising when it has to be at its minimum: {warmup} steps of "
            f"warm-up, and the decay ends at step {last}",
            "warmup_steps" if values["warmup_steps"] else "warmup_ratio",
            f"{max(1, last // 100)} steps are usual for {last}",
        )


def _split(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    try:
        shares = corpus.shares(values["split"])
    except RequestError as error:
        yield draft.fault(error.problems[0].what, "split", 'for instance "949,50,1"')
        return
    wanted = {"training": True, "evaluation": values["do_eval"], "test": values["do_predict"]}
    keys = {"training": "do_train", "evaluation": "do_eval", "test": "do_predict"}
    for (name, is_wanted), share in zip(wanted.items(), shares, strict=True):
        if is_wanted and not share:
            yield draft.fault(
                f'"split" leaves nothing for {name}, which "{keys[name]}" asks for',
                "split",
                f'give it a share, as "949,50,1", or set "{keys[name]}" to false',
            )


def _spread(draft: Draft) -> Iterator[Fault]:
    values = draft.values
    if values["sequence_parallel"] and values["tensor_parallel_degree"] < 2:
        yield draft.fault(
            '"sequence_parallel" needs "tensor_parallel_degree" of 2 or more',
            "sequence_parallel",
            "set one of them",
        )
    staged = values["sharding"]
    known = ("", "stage1", "stage2", "stage3", "stage2 offload", "stage3 offload")
    if staged not in known:
        yield draft.fault(
            f'"sharding" cannot be {json.dumps(staged)}',
            "sharding",
            "one of " + ", ".join(f'"{word}"' for word in known),
        )
        staged = ""
    deeper = staged.startswith(_DEEPER)
    if deeper and values["pipeline_parallel_degree"] > 1:
        yield draft.fault(
            'pipeline parallelism goes with "sharding" "stage1" only',
            "sharding",
            "set it to stage1",
        )
    if values["virtual_pp_degree"] > 1 and values["pipeline_parallel_degree"] < 3:
        yield draft.fault(
            '"virtual_pp_degree" needs "pipeline_parallel_degree" of 3 or more',
            "virtual_pp_degree",
            "set one of them",
        )
    elif values["virtual_pp_degree"] > 1:
        yield from _rounds(draft)
    if values["sep_parallel_degree"] > 1 and values["context_parallel_degree"] > 1:
        yield draft.fault(
            '"sep_parallel_degree" and "context_parallel_degree" exclude each other',
            "context_parallel_degree",
            "leave one of them out",
        )


def _rounds(draft: Draft) -> Iterator[Fault]:
    """Yield what is not in whole rounds of the interleaved schedule."""
    stages = draft.values["pipeline_parallel_degree"]
    keys = ["gradient_accumulation_steps"]
    keys += ["per_device_eval_batch_size"] if draft.values["do_eval"] else []
    for key in keys:
        if draft.values[key] % stages:
            yield draft.fault(
                f'virtual stages go in rounds: "{key}" ({draft.values[key]}) is not a multiple '
                f'of "pipeline_parallel_degree" ({stages})',
                key,
                f"for instance {max(1, draft.values[key] // stages) * stages}",
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
        yield draft.fault('"do_ptq" is false, and this job does that', "do_ptq", "set it to true")
    for what in ("shift", "smooth"):
        if values[f"{what}_all_linears"] and not values[what]:
            yield draft.fault(
                f'"{what}_all_linears" needs "{what}"', f"{what}_all_linears", f'set "{what}" too'
            )
    if "src_length" in draft.explicit:
        yield from _lengths(draft)
    for part in values["skip_list_names"] or ():
        if not isinstance(part, str) or not part:
            what = f'"skip_list_names" has {json.dumps(part)}, which is no part of a name'
            yield draft.fault(what, "skip_list_names", 'for instance ["mlp.down_proj"]')
    if values["max_evaluate_steps"] == 0:
        what = '"max_evaluate_steps" is 0: nothing would be measured'
        yield draft.fault(what, "max_evaluate_steps", "give a number of steps, or -1 for all")


_COMMON = (_required, _refused, _trains, _precision, _evaluation, _best_model, _steps)
_CHECKS: dict[str, tuple[Callable[[Draft], Iterator[Fault]], ...]] = {
    "finetune": (*_COMMON, _lengths, _lora),
    "pretrain": (*_COMMON, _schedule, _split, _spread),
    "quantize": (_required, _refused, _quantizes, _precision),
}


def _unfit_for_cpu(draft: Draft) -> tuple[list[Fault], list[str]]:
    values = draft.values
    wanted: list[tuple[str, str, str]] = []
    if values["device"] != "cpu":
        wanted.append(("device", "cpu", f'there is no "{values["device"]}" in a CPU build'))
    if values["fp16"]:
        wanted.append(("fp16", "false", "loss scaling for float16 is not there on a CPU"))
    if values["bf16"] and values["fp16_opt_level"] == "O2":
        wanted.append(("bf16", "false", "a CPU has no bfloat16 kernels for O2"))
    if values["fp16_opt_level"] == "O2":
        wanted.append(("fp16_opt_level", "O1", "a CPU has no kernels for half precision at O2"))
    for key in FUSED_KEYS:
        if values[key]:
            wanted.append((key, "false", "this kernel is there on accelerators only"))
    if draft.schema.job == "pretrain" and str(values["sharding"]).startswith(_DEEPER):
        wanted.append(("sharding", "stage1", "Paddle shards the optimizer's state only there"))
    if values["weight_quantize_algo"]:
        wanted.append(
            ("weight_quantize_algo", "null", "quantized weights are trained on accelerators only")
        )
    faults = [
        draft.fault(
            f'"{key}" cannot be {json.dumps(values[key])} on a CPU: {why}', key, _set(key, value)
        )
        for key, value, why in wanted
    ]
    return faults, [f"{key}={value}" for key, value, _ in wanted]


def _unfit_for_accelerator(draft: Draft) -> list[Fault]:
    """Return that the device is of another kind: to Paddle 3.0.0b2 a DCU is a ``gpu``."""
    device = draft.values["device"]
    if device.partition(":")[0] in ("gpu", "cpu"):
        return []
    what = f'"device" cannot be {json.dumps(device)} here: Paddle calls the cards "gpu"'
    return [draft.fault(what, "device", _set("device", "gpu"))]


def _set(key: str, value: str) -> str:
    shown = value if value in ("false", "null") else f'"{value}"'
    return f"set it to {shown} in the file, or: --set {key}={value}"
