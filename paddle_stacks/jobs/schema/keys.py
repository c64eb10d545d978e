"""Every key a training's configuration may hold: upstream's, and two of ours.

The names, types and defaults are those of PaddleNLP 3.0.0b3
(``paddlenlp.trainer.TrainingArguments``, ``paddlenlp.trl``,
``llm/utils/argument.py`` and ``llm/run_pretrain.py``), so that a JSON from its
documentation works here unchanged. Three defaults are ours: ``do_train`` is true,
because these jobs train, ``device`` is the backend's, and ``use_quick_lora`` is
true: the same sums in another order, a third faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from paddle_stacks.jobs.datasets import DEV_RATIO

__all__ = ["FUSED_KEYS", "OURS", "PARALLEL", "SCHEMAS", "Key", "Schema"]

OURS = ("merge", "eval_iters", "data_columns", "dev_ratio")
"""The keys that upstream does not have; ``eval_iters`` is a constant there."""


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Args:
        name: as upstream spells it.
        kind: ``bool``, ``int``, ``float``, ``str``, ``list``, ``dict``, or
            ``object`` for any; a key with the default None may be null.
        default: the value where the configuration says nothing.
        low: the smallest value allowed, or None.
        high: the largest value allowed, or None.
        above: the value must be greater than this, or None.
        below: the value must be less than this, or None.
        choices: the values allowed, or empty for all.
        refused: why only the default is accepted, or empty.
        inert: why the key has no effect in this job, or empty.
    """

    name: str
    kind: type
    default: Any = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    refused: str = ""
    inert: str = ""

    @property
    def acts(self) -> bool:
        """Whether another value than the default is accepted and has an effect."""
        return not self.refused and not self.inert


@dataclass(frozen=True)
class Schema:
    """The configuration of a job.

    Args:
        job: its name.
        keys: every key that it may hold, by name.
        renamed: spellings that documents and older releases use, and what upstream
            reads today.
    """

    job: str
    keys: Mapping[str, Key]
    renamed: Mapping[str, str]


_STRATEGIES = ("no", "steps", "epoch")
_SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial")
_METRICS = ("loss", "accuracy", "eval_loss", "eval_accuracy")
_QUANT_TYPES = (
    *("weight_only_int8", "wint8", "w8a16"),
    *("a8w8", "w8a8", "a8w8c16", "a8w8c8", "w8a8c8"),
)
_LARGEST_SEED = 2**32 - 1  # what NumPy's generator takes

_MODEL = (
    Key("model_name_or_path", str),
    Key("tokenizer_name_or_path", str),
    Key("hidden_dropout_prob", float, 0.1, low=0, below=1),
    Key("attention_probs_dropout_prob", float, 0.1, low=0, below=1),
)

_DATA = (
    Key("dataset_name_or_path", str),
    Key("data_columns", str),
    Key("dev_ratio", float, DEV_RATIO, low=0, below=1),
)

_ANSWERS = (
    *_DATA,
    Key("chat_template", str),
    Key("src_length", int, 1024, low=1),
    Key("max_length", int, 2048, low=2),
    Key("zero_padding", bool, False),
    Key("greedy_zero_padding", bool, False),
    Key("pad_to_multiple_of", int, low=1),
    Key("pad_to_max_length", bool, False),
)

_TEXT = (
    Key("input_dir", str),
    Key("split", str, "949,50,1"),
    Key("max_seq_length", int, 1024, low=1),
    Key("data_impl", str, "mmap", choices=("mmap",)),
    Key("data_cache", str),
    Key("continue_training", bool, False),
    Key("num_hidden_layers", int, low=1),
    Key("fuse_attention_qkv", bool),
    Key("fuse_attention_ffn", bool),
    Key("min_learning_rate", float, 1e-5, low=0),
    Key("eval_iters", int, 10, low=1),
    Key("do_predict", bool, False),
)

_RUN = (
    Key("output_dir", str),
    Key("overwrite_output_dir", bool, False),
    Key("resume_from_checkpoint", str),
    Key("do_train", bool, True),
    Key("do_eval", bool, False),
    Key("device", str),
    Key("seed", int, 42, low=0, high=_LARGEST_SEED),
)

_LORA = (
    Key("lora", bool, False),
    Key("lora_rank", int, 8, low=1),
    Key("lora_path", str),
    Key("rslora", bool, False),
    Key("lora_plus_scale", float, 1.0, above=0),
    Key("use_quick_lora", bool, True),
    Key("lora_use_mixer", bool, False),
    Key("merge", bool, False),
    Key("neftune", bool, False),
    Key("neftune_noise_alpha", float, 5.0, low=0),
)

_OPTIMIZATION = (
    Key("per_device_train_batch_size", int, 8, low=1),
    Key("per_device_eval_batch_size", int, 8, low=1),
    Key("gradient_accumulation_steps", int, 1, low=1),
    Key("num_train_epochs", float, 1.0, above=0),
    Key("max_steps", int, -1, low=-1),
    Key("learning_rate", float, 5e-5, above=0),
    Key("lr_scheduler_type", str, "linear", choices=_SCHEDULERS),
    Key("warmup_steps", int, 0, low=0),
    Key("warmup_ratio", float, 0.0, low=0, high=1),
    Key("decay_steps", int, 0, low=0),
    Key("num_cycles", float, 0.5, low=0),
    Key("lr_end", float, 1e-7, low=0),
    Key("power", float, 1.0, low=0),
    Key("optim", str, "adamw", choices=("adamw",)),
    Key("weight_decay", float, 0.0, low=0),
    Key("adam_beta1", float, 0.9, low=0, below=1),
    Key("adam_beta2", float, 0.999, low=0, below=1),
    Key("adam_epsilon", float, 1e-8, above=0),
    Key("max_grad_norm", float, 1.0, low=0),
    Key("recompute", bool, False),
    Key("recompute_granularity", str, "full", choices=("full", "full_attn", "core_attn")),
    Key("recompute_use_reentrant", bool, False),
    Key("bf16", bool, False),
    Key("fp16", bool, False),
    Key("fp16_opt_level", str, "O1", choices=("O0", "O1", "O2")),
    Key("scale_loss", float, 2.0**15, above=0),
    Key("amp_master_grad", bool, False),
    Key("amp_custom_black_list", list),
    Key("amp_custom_white_list", list),
)

_EVALUATION = (
    Key("evaluation_strategy", str, "no", choices=_STRATEGIES),
    Key("eval_steps", int, low=1),
    Key("max_evaluate_steps", int, -1, low=-1),
    Key("load_best_model_at_end", bool, False),
    Key("metric_for_best_model", str, choices=_METRICS),
    Key("greater_is_better", bool),
    Key("logging_strategy", str, "steps", choices=_STRATEGIES),
    Key("logging_steps", int, 500, low=1),
    Key("logging_first_step", bool, False),
    Key("save_strategy", str, "steps", choices=_STRATEGIES),
    Key("save_steps", int, 500, low=1),
    Key("save_total_limit", int, low=1),
)

_KERNELS = (  # what the backend has, checked in checks.py
    Key("use_flash_attention", bool, False),
    Key("flash_mask", bool, False),
    Key("use_fused_rms_norm", bool, False),
    Key("use_fused_rope", bool, False),
    Key("use_fused_linear", bool, False),
    Key("use_fused_dropout_add", bool, False),
    Key("use_fast_layer_norm", bool, False),
    Key("weight_quantize_algo", str),
)

_PARALLEL = (
    Key("tensor_parallel_degree", int, -1, low=-1),
    Key("tensor_parallel_output", bool, False),
    Key("tensor_parallel_config", str, ""),
    Key("pipeline_parallel_degree", int, -1, low=-1),
    Key("pipeline_parallel_config", str, ""),
    Key("virtual_pp_degree", int, 1, low=1),
    Key("pp_recompute_interval", int, 1, low=1),
    Key("sep_parallel_degree", int, -1, low=-1),
    Key("context_parallel_degree", int, -1, low=-1),
    Key("sequence_parallel", bool, False),
    Key("sequence_parallel_config", str, ""),
    Key("fuse_sequence_parallel_allreduce", bool, False),
    Key("data_parallel_config", str, ""),
    Key("sharding", object, ""),
    Key("sharding_degree", int, -1, low=-1),
    Key("sharding_parallel_degree", int, -1, low=-1),
    Key("sharding_parallel_config", str, ""),
    Key("sharding_parallel_mesh_dimension", str, "dp"),
    Key("sharding_comm_buffer_size_MB", int, -1),
    Key("hybrid_parallel_topo_order", str, None, choices=("pp_first", "sharding_first", None)),
    Key("ddp_find_unused_parameters", bool),
    Key("no_recompute_layers", list),
    Key("release_grads", bool, False),
)

PARALLEL = tuple(key.name for key in _PARALLEL)
"""The keys that say how a model is spread over processes."""

FUSED_KEYS = (
    "use_flash_attention",
    "flash_mask",
    "use_fused_rms_norm",
    "use_fused_rope",
    "use_fused_linear",
    "use_fused_dropout_add",
    "use_fast_layer_norm",
)

_ELSEWHERE = "this job does LoRA and full fine-tuning; this is another method"
_QUANTIZE = "this job trains; quantization is another job"
_STATIC = "this job runs in dynamic graph mode"

_REFUSED_IN_FINETUNE = tuple(
    Key(name, kind, default, refused=reason)
    for name, kind, default, reason in (
        ("prefix_tuning", bool, False, _ELSEWHERE),
        ("prefix_path", str, None, _ELSEWHERE),
        ("vera", bool, False, _ELSEWHERE),
        ("lokr", bool, False, _ELSEWHERE),
        ("lokr_path", str, None, _ELSEWHERE),
        ("reft", bool, False, _ELSEWHERE),
        (
            "pissa",
            bool,
            False,
            "it changes the base model's weights, so that its adapter fits no other copy of them",
        ),
        ("do_predict", bool, False, "the infer job predicts"),
        (
            "eval_with_do_generation",
            bool,
            False,
            "this job evaluates by loss and by next-token accuracy over all evaluation data; "
            "the infer job generates",
        ),
        ("save_generation_output", bool, False, "this job evaluates without generating"),
        ("autoregressive", bool, False, "this job trains on answers alone"),
        ("use_pose_convert", bool, False, "this job does not extend a model's context"),
        ("continue_training", bool, True, "this job starts from a model's weights"),
        ("fuse_attention_qkv", bool, None, "the weights are kept in the layout they are stored in"),
        ("fuse_attention_ffn", bool, None, "the weights are kept in the layout they are stored in"),
    )
)

_REFUSED = tuple(
    Key(name, kind, default, refused=reason)
    for name, kind, default, reason in (
        ("to_static", bool, False, _STATIC),
        ("enable_auto_parallel", bool, False, _STATIC),
        ("from_aistudio", bool, False, "the fetch job fetches models"),
        ("save_to_aistudio", bool, False, "a run is written to its folder"),
        ("benchmark", bool, False, "it turns checkpoints and evaluation off"),
        ("autotuner_benchmark", bool, False, "it turns checkpoints and evaluation off"),
        ("use_async_save", bool, False, "a checkpoint is whole when its name appears"),
        ("ignore_save_lr_and_optim", bool, False, "such a checkpoint cannot be resumed"),
        ("ignore_load_lr_and_optim", bool, False, "training would not go on where it stopped"),
        ("ignore_data_skip", bool, False, "training would not go on where it stopped"),
        ("skip_data_intervals", list, None, "this job trains on all of its data"),
        ("offload_optim", bool, False, "it needs an accelerator"),
        ("bf16_full_eval", bool, False, "evaluation has the precision of training"),
        ("fp16_full_eval", bool, False, "evaluation has the precision of training"),
        ("past_index", int, -1, "this job trains causal language models"),
        ("minimum_eval_times", int, None, "evaluation_strategy and eval_steps decide"),
        ("wandb_api_key", str, None, "a secret does not belong in a configuration"),
        ("aistudio_token", str, None, "a secret does not belong in a configuration"),
        ("do_qat", bool, False, _QUANTIZE),
        ("do_ptq", bool, False, _QUANTIZE),
        ("do_gptq", bool, False, _QUANTIZE),
        ("do_awq", bool, False, _QUANTIZE),
        ("load_quant_model", bool, False, _QUANTIZE),
        ("do_export", bool, False, "the export job exports"),
        ("use_long_sequence_strategies", bool, False, "this job does not extend a context"),
    )
)

_PROCESSES = "it acts where a model is spread over several processes"
_OWN_LOADER = "records are tokenized once, before training"
_UNIFIED = "checkpoints of several processes are unified ones, of one process never"
_OWN_METRICS = "this job writes metrics.jsonl"
_OWN_METHOD = "it belongs to a method that is off"
_UPSTREAM_PATHS = "a run is written to its folder"

_INERT = tuple(
    Key(name, kind, default, inert=reason)
    for name, kind, default, reason in (
        ("save_sharded_model", bool, False, _PROCESSES),
        ("load_sharded_model", bool, False, _PROCESSES),
        ("distributed_dataloader", bool, False, _PROCESSES),
        ("force_reshard_pp", bool, False, _PROCESSES),
        ("auto_parallel_resume_form_hybrid_parallel", bool, False, _PROCESSES),
        ("use_expert_parallel", bool, False, _PROCESSES),
        ("expert_max_capacity", int, 2**32, _PROCESSES),
        ("expert_min_capacity", int, 1, _PROCESSES),
        ("local_rank", int, -1, _PROCESSES),
        ("save_on_each_node", bool, False, _PROCESSES),
        ("log_on_each_node", bool, True, _PROCESSES),
        ("unified_checkpoint", bool, False, _UNIFIED),
        ("unified_checkpoint_config", str, "", _UNIFIED),
        ("ordered_save_group_size", int, 0, _PROCESSES),
        ("refined_recompute", str, "", _PROCESSES),
        ("skip_recompute_ops", dict, None, _PROCESSES),
        ("ckpt_quant_stage", str, "O0", _PROCESSES),
        ("flatten_param_grads", bool, False, "it acts on an NPU"),
        ("no_cuda", bool, False, '"device" decides'),
        ("dataloader_num_workers", int, 0, _OWN_LOADER),
        ("dataloader_drop_last", bool, False, _OWN_LOADER),
        ("remove_unused_columns", bool, True, _OWN_LOADER),
        ("eval_accumulation_steps", int, None, "predictions are counted, not kept"),
        ("prediction_loss_only", bool, False, "predictions are counted, not kept"),
        ("disable_tqdm", bool, None, "events take the place of progress bars"),
        ("logging_dir", str, None, _OWN_METRICS),
        ("report_to", object, None, _OWN_METRICS),
        ("run_name", str, None, _OWN_METRICS),
        ("skip_memory_metrics", bool, True, _OWN_METRICS),
        ("skip_profile_timer", bool, True, _OWN_METRICS),
        ("output_signal_dir", str, None, _UPSTREAM_PATHS),
        ("aistudio_repo_id", str, None, _UPSTREAM_PATHS),
        ("aistudio_repo_private", bool, True, _UPSTREAM_PATHS),
        ("aistudio_repo_license", str, "Apache License 2.0", _UPSTREAM_PATHS),
    )
)

_INERT_IN_FINETUNE = tuple(
    Key(name, kind, default, inert=reason)
    for name, kind, default, reason in (
        ("lazy", bool, False, _OWN_LOADER),
        ("lazy_data_processing", bool, True, _OWN_LOADER),
        ("label_names", list, None, _OWN_LOADER),
        ("task_name", str, None, _OWN_LOADER),
        ("weight_blocksize", int, 64, _OWN_METHOD),
        ("weight_double_quant", bool, False, _OWN_METHOD),
        ("weight_double_quant_block_size", int, 256, _OWN_METHOD),
        ("vera_rank", int, 8, _OWN_METHOD),
        ("lokr_dim", int, 8, _OWN_METHOD),
        ("num_prefix_tokens", int, 128, _OWN_METHOD),
        ("rope_scaling_factor", float, 1.0, _OWN_METHOD),
        ("strategy_type", str, None, _OWN_METHOD),
        ("strategy_name", str, None, _OWN_METHOD),
        ("top_k", int, 1, _OWN_METHOD),
        ("top_p", float, 1.0, _OWN_METHOD),
        ("quant_type", str, "a8w8", _OWN_METHOD),
        ("fp8_type", list, None, _OWN_METHOD),
        ("skip_list_names", list, None, _OWN_METHOD),
        ("weight_quant_method", str, "abs_max_channel_wise", _OWN_METHOD),
        ("act_quant_method", str, "avg", _OWN_METHOD),
        ("cachekv_quant_method", str, "avg_headwise", _OWN_METHOD),
        ("search_alpha_min", float, 0.2, _OWN_METHOD),
        ("search_alpha_max", float, 0.8, _OWN_METHOD),
        ("search_scale_min", float, 1.0, _OWN_METHOD),
        ("search_scale_max", float, 5.0, _OWN_METHOD),
        ("ptq_step", int, 32, _OWN_METHOD),
        ("shift", bool, False, _OWN_METHOD),
        ("shift_all_linears", bool, False, _OWN_METHOD),
        ("shift_sampler", str, "ema", _OWN_METHOD),
        ("shift_step", int, 32, _OWN_METHOD),
        ("smooth", bool, False, _OWN_METHOD),
        ("smooth_all_linears", bool, False, _OWN_METHOD),
        ("smooth_sampler", str, "none", _OWN_METHOD),
        ("smooth_step", int, 32, _OWN_METHOD),
        ("smooth_piecewise_search", bool, False, _OWN_METHOD),
        ("smooth_k_piece", int, 3, _OWN_METHOD),
        ("smooth_search_piece", bool, False, _OWN_METHOD),
        ("gptq_step", int, 8, _OWN_METHOD),
        ("auto_clip", bool, False, _OWN_METHOD),
        ("awq_step", int, 8, _OWN_METHOD),
        ("autoclip_step", int, 8, _OWN_METHOD),
        ("do_quant_debug", bool, False, _OWN_METHOD),
        ("test_sample", str, None, _OWN_METHOD),
    )
)

_NO_TRAINING = "this job does not train"
_NO_SEARCH = "it acts where something is searched for, which this job does not do"
_MERGE_FIRST = "merge an adapter first: the export job merges"
_ON_A_CARD = "upstream's program for a card does that"

# Upstream's QuantArgument, and the keys of others that its program reads when it quantizes.
# These defaults are ours: a model is quantized although nobody has said so, and on rows of
# 512 tokens, one a step, which take a CPU 20 seconds instead of 20 minutes.
_QUANTIZATION = (
    Key("model_name_or_path", str),
    Key("tokenizer_name_or_path", str),
    *_DATA,
    Key("src_length", int, 256, low=1),
    Key("max_length", int, 512, low=2),
    Key("output_dir", str),
    Key("device", str),
    Key("seed", int, 42, low=0, high=_LARGEST_SEED),
    Key("per_device_train_batch_size", int, 1, low=1),
    Key("max_evaluate_steps", int, -1, low=-1),
    Key("per_device_eval_batch_size", int, 8, low=1),
    Key("do_ptq", bool, True),
    Key("quant_type", str, "a8w8", choices=_QUANT_TYPES),
    Key("weight_quant_method", str, "abs_max_channel_wise", choices=("abs_max_channel_wise",)),
    Key("act_quant_method", str, "avg", choices=("avg", "abs_max")),
    Key("cachekv_quant_method", str, "avg_headwise", choices=("avg_headwise", "abs_max_headwise")),
    Key("skip_list_names", list),
    Key("ptq_step", int, 32, low=1),
    Key("shift", bool, False),
    Key("shift_all_linears", bool, False),
    Key("shift_sampler", str, "ema", choices=("ema", "none")),
    Key("shift_step", int, 32, low=1),
    Key("smooth", bool, False),
    Key("smooth_all_linears", bool, False),
    Key("smooth_step", int, 32, low=1),
)

_REFUSED_IN_QUANTIZE = tuple(
    Key(name, kind, default, refused=reason)
    for name, kind, default, reason in (
        ("do_train", bool, False, _NO_TRAINING),
        ("do_qat", bool, False, _NO_TRAINING),
        ("lora", bool, False, _MERGE_FIRST),
        ("lora_path", str, None, _MERGE_FIRST),
        ("prefix_tuning", bool, False, "a prefix is not part of a model"),
        ("do_gptq", bool, False, _ON_A_CARD),
        ("do_awq", bool, False, _ON_A_CARD),
        ("auto_clip", bool, False, _ON_A_CARD),
        ("smooth_piecewise_search", bool, False, _ON_A_CARD),
        ("load_quant_model", bool, False, "infer and serve load what this job makes"),
        ("eval_with_do_generation", bool, False, "this job measures the perplexity"),
        ("zero_padding", bool, False, "records are calibrated on one by one, without padding"),
    )
)

_INERT_IN_QUANTIZE = tuple(
    Key(name, kind, default, inert=reason)
    for name, kind, default, reason in (
        ("chat_template", str, None, "the template is the tokenizer's own"),
        ("do_eval", bool, False, "this job always measures the perplexity"),
        ("greedy_zero_padding", bool, False, "there is no padding"),
        ("pad_to_multiple_of", int, None, "there is no padding"),
        ("pad_to_max_length", bool, False, "there is no padding"),
        ("overwrite_output_dir", bool, False, "--force replaces a folder"),
        ("fp8_type", list, None, "it acts on types of eight bits that are no whole numbers"),
        ("smooth_sampler", str, "none", _NO_SEARCH),
        ("smooth_k_piece", int, 3, _NO_SEARCH),
        ("smooth_search_piece", bool, False, _NO_SEARCH),
        ("search_alpha_min", float, 0.2, _NO_SEARCH),
        ("search_alpha_max", float, 0.8, _NO_SEARCH),
        ("search_scale_min", float, 1.0, _NO_SEARCH),
        ("search_scale_max", float, 5.0, _NO_SEARCH),
    )
)

_INERT_IN_PRETRAIN = (
    Key(
        "skip_warmup", bool, True, inert="the corpus is mapped into memory and read as it is needed"
    ),
    Key(
        "share_folder", bool, False, inert="nodes share the workspace: one process makes the index"
    ),
    Key("num_train_epochs", float, 1.0, above=0, inert='"max_steps" decides'),
    Key("max_evaluate_steps", int, -1, low=-1, inert='"eval_iters" decides'),
)


_RENAMED = {
    "eval_step": "eval_steps",
    "save_step": "save_steps",
    "logging_step": "logging_steps",
    "evaluation_stategy": "evaluation_strategy",
    "eval_strategy": "evaluation_strategy",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "use_recompute": "recompute",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
}
_RENAMED_IN_FINETUNE = {
    "intokens": "zero_padding",
    "task_name_or_path": "dataset_name_or_path",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "lora_r": "lora_rank",
    "max_seq_length": "max_length",
    "max_source_length": "src_length",
    "tgt_length": "max_length",
    "packing": "zero_padding",
    "data_path": "dataset_name_or_path",
}
_RENAMED_IN_PRETRAIN = {
    "dataset_name_or_path": "input_dir",
    "data_path": "input_dir",
    "input": "input_dir",
    "data_dir": "input_dir",
    "max_length": "max_seq_length",
    "seq_length": "max_seq_length",
    "src_length": "max_seq_length",
    "min_lr": "min_learning_rate",
    "splits": "split",
}


def _schema(job: str, keys: Iterable[Key], renamed: Mapping[str, str]) -> Schema:
    return Schema(job, {key.name: key for key in keys}, {**_RENAMED, **renamed})


def _finetune_keys() -> list[Key]:
    return [
        *(*_MODEL, *_ANSWERS, *_RUN, *_LORA, *_OPTIMIZATION, *_EVALUATION, *_KERNELS),
        *(*_REFUSED, *_REFUSED_IN_FINETUNE),
        *(replace(key, inert=_PROCESSES) for key in _PARALLEL),
        *(*_INERT, *_INERT_IN_FINETUNE),
    ]


def _pretrain_keys() -> list[Key]:
    """Return the keys of ``pretrain``, with the defaults of upstream's run_pretrain.py."""
    inert = {key.name for key in _INERT_IN_PRETRAIN}
    used = (*_MODEL, *_TEXT, *_RUN, *_OPTIMIZATION, *_EVALUATION, *_KERNELS, *_PARALLEL)
    found = [key for key in (*used, *_REFUSED, *_INERT) if key.name not in inert]
    choices = {
        "metric_for_best_model": ("loss", "eval_loss"),
        "lr_scheduler_type": ("linear", "cosine"),  # the two that end in a minimum
    }
    return [
        *(replace(key, choices=choices.get(key.name, key.choices)) for key in found),
        *_INERT_IN_PRETRAIN,
    ]


def _quantize_keys() -> list[Key]:
    """Return the keys of ``quantize`` on a CPU: of a fine-tuning, what it does not use is inert."""
    own = (*_REFUSED_IN_QUANTIZE, *_INERT_IN_QUANTIZE, *_QUANTIZATION)
    named = {key.name for key in own}
    checked = {"fp16", "bf16", "fp16_opt_level", "weight_quantize_algo", *FUSED_KEYS}
    others = {key.name: key for key in (*_finetune_keys(), *_INERT_IN_PRETRAIN)}
    return [
        *own,
        *(
            key if key.name in checked or not key.acts else replace(key, inert=_NO_TRAINING)
            for name, key in others.items()
            if name not in named
        ),
    ]


SCHEMAS: dict[str, Schema] = {
    schema.job: schema
    for schema in (
        _schema("finetune", _finetune_keys(), _RENAMED_IN_FINETUNE),
        _schema("quantize", _quantize_keys(), _RENAMED_IN_FINETUNE),
        _schema("pretrain", _pretrain_keys(), _RENAMED_IN_PRETRAIN),
    )
}
"""The schema of each job that has a configuration of its own, by the job's name."""
