"""All configuration keys: upstream's, and two of ours.

The names, types and defaults are those of PaddleNLP 3.0.0b3
(``paddlenlp.trainer.TrainingArguments``, ``paddlenlp.trl``,
``llm/utils/argument.py`` and ``llm/run_pretrain.py``), so that a JSON from its
documentation works here unchanged. Three defaults are ours: ``do_train`` is true,
because these jobs train, ``device`` is the backend's, and ``use_quick_lora`` is
true, which adds in another order and is a third faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from paddle_stacks.jobs.datasets import DEV_RATIO
from paddle_stacks.jobs.ranges import Range

__all__ = ["FUSED_KEYS", "GROUPS", "OURS", "PARALLEL", "SCHEMAS", "Key", "Schema"]

OURS = ("merge", "eval_iters", "data_columns", "dev_ratio")
"""Keys that upstream does not have; ``eval_iters`` is a constant there."""


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Args:
        name: as upstream spells it.
        kind: ``bool``, ``int``, ``float``, ``str``, ``list``, ``dict``, or
            ``object`` for any; a key with the default None may be null.
        default: the value if the configuration does not set it.
        help: what it sets, one sentence; empty if it has no effect in any job.
        low: the smallest value allowed, or None.
        high: the largest value allowed, or None.
        above: the value must be greater than this, or None.
        below: the value must be less than this, or None.
        choices: the values allowed, or empty for all.
        refused: reason why only the default is accepted; empty for none.
        inert: reason why the key has no effect in this job; empty for none.
    """

    name: str
    kind: type
    default: Any = None
    help: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    refused: str = ""
    inert: str = ""

    @property
    def range(self) -> Range | None:
        """The numbers allowed; None for all."""
        limits = (self.low, self.high, self.above, self.below)
        return None if limits == (None, None, None, None) else Range(*limits)

    @property
    def acts(self) -> bool:
        """Return whether values other than the default are accepted and have an effect."""
        return not self.refused and not self.inert


@dataclass(frozen=True)
class Schema:
    """The configuration of a job.

    Args:
        job: its name.
        keys: all its keys, by name.
        renamed: names in older releases and documents, and the current ones.
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
    Key("model_name_or_path", str, None, "The model: a name in models/, or a workspace folder."),
    Key("tokenizer_name_or_path", str, None, "Folder of the tokenizer, if it is not the model's."),
    Key("hidden_dropout_prob", float, 0.1, "Dropout of hidden states.", low=0, below=1),
    Key(
        "attention_probs_dropout_prob", float, 0.1, "Dropout of attention weights.", low=0, below=1
    ),
)

_ANSWERS = (
    Key(
        "dataset_name_or_path",
        str,
        None,
        "The data: a file, a folder with train.json and dev.json, or several with weights.",
    ),
    Key("data_columns", str, None, "Columns of question and answer: question:answer[:system]."),
    Key(
        "dev_ratio",
        float,
        DEV_RATIO,
        "Part of the records held out for evaluation if the data has no dev part; 0: none.",
        low=0,
        below=1,
    ),
    Key(
        "chat_template",
        str,
        None,
        "A chat_template.json instead of the model's; none: no template.",
    ),
    Key(
        "src_length",
        int,
        1024,
        "Maximum tokens of a question; longer ones lose their start.",
        low=1,
    ),
    Key("max_length", int, 2048, "Maximum tokens of a question and its answer.", low=2),
    Key("zero_padding", bool, False, "Pack short records into one sample, without mixing them."),
    Key(
        "greedy_zero_padding", bool, False, "With zero_padding: choose records for fuller samples."
    ),
    Key("pad_to_multiple_of", int, None, "Pad samples to a multiple of this many tokens.", low=1),
    Key("pad_to_max_length", bool, False, "Pad every sample to max_length."),
)

_TEXT = (
    Key(
        "input_dir",
        str,
        None,
        "The corpus that prepare wrote: the prefix of its .bin and .idx; or several with weights.",
    ),
    Key("split", str, "949,50,1", "Proportions of the corpus for training, evaluation and test."),
    Key("max_seq_length", int, 1024, "Tokens per pretraining sample.", low=1),
    Key("data_impl", str, "mmap", "Format of the corpus; prepare writes mmap.", choices=("mmap",)),
    Key("data_cache", str, None, "Folder that caches the order of the samples."),
    Key(
        "continue_training", bool, False, "Start from the model's weights; false: from random ones."
    ),
    Key("num_hidden_layers", int, None, "Number of layers instead of the model's.", low=1),
    Key("fuse_attention_qkv", bool, None, "Compute queries, keys and values as one product."),
    Key("fuse_attention_ffn", bool, None, "Compute the two products before SwiGLU as one."),
    Key("min_learning_rate", float, 1e-5, "Learning rate at which decay ends.", low=0),
    Key("eval_iters", int, 10, "Batches per evaluation in pretraining.", low=1),
    Key("do_predict", bool, False, "Evaluate the test part of the corpus at the end."),
)

_RUN = (
    Key("output_dir", str, None, "The run's folder, with checkpoints, metrics and result."),
    Key("overwrite_output_dir", bool, False, "Start over instead of resuming an existing run."),
    Key("resume_from_checkpoint", str, None, "Checkpoint to resume from; default: the latest."),
    Key("do_train", bool, True, "Run training."),
    Key("do_eval", bool, False, "Run evaluation."),
    Key("device", str, None, "The device type; by default the backend's."),
    Key("seed", int, 42, "Seed of order, dropout and initial weights.", low=0, high=_LARGEST_SEED),
)

_LORA = (
    Key(
        "lora", bool, False, "Train low-rank matrices beside each projection and freeze the model."
    ),
    Key("lora_rank", int, 8, "Rank of the LoRA matrices; more needs more memory.", low=1),
    Key("lora_path", str, None, "An adapter to continue training."),
    Key("rslora", bool, False, "Scale LoRA's product by the root of the rank."),
    Key(
        "lora_plus_scale",
        float,
        1.0,
        "Learning rate of LoRA's second matrix / first (LoRA+).",
        above=0,
    ),
    Key("use_quick_lora", bool, True, "Compute LoRA in another order, faster for small adapters."),
    Key("lora_use_mixer", bool, False, "Train a square matrix between LoRA's two (MosLoRA)."),
    Key("merge", bool, False, "Also write the merged model at the end."),
    Key("neftune", bool, False, "Add noise to embeddings during training (NEFTune)."),
    Key("neftune_noise_alpha", float, 5.0, "Amount of noise: alpha of NEFTune.", low=0),
)

_OPTIMIZATION = (
    Key("per_device_train_batch_size", int, 8, "Samples per training batch of a process.", low=1),
    Key("per_device_eval_batch_size", int, 8, "Samples per evaluation batch of a process.", low=1),
    Key("gradient_accumulation_steps", int, 1, "Batches per optimizer step.", low=1),
    Key("num_train_epochs", float, 1.0, "Passes over the data, if max_steps is not set.", above=0),
    Key("max_steps", int, -1, "Optimizer steps; -1: as many as num_train_epochs gives.", low=-1),
    Key("learning_rate", float, 5e-5, "Learning rate after warm-up.", above=0),
    Key(
        "lr_scheduler_type",
        str,
        "linear",
        "Learning rate schedule: linear, cosine, constant, constant_with_warmup, polynomial.",
        choices=_SCHEDULERS,
    ),
    Key("warmup_steps", int, 0, "Steps in which the learning rate rises from 0.", low=0),
    Key(
        "warmup_ratio",
        float,
        0.0,
        "Fraction of warm-up steps, if warmup_steps is 0.",
        low=0,
        high=1,
    ),
    Key("decay_steps", int, 0, "Steps until min_learning_rate; 0: all steps.", low=0),
    Key("num_cycles", float, 0.5, "Cosine cycles; 0.5 decays from maximum to minimum.", low=0),
    Key("lr_end", float, 1e-7, "Final learning rate of a polynomial schedule.", low=0),
    Key("power", float, 1.0, "Exponent of a polynomial schedule.", low=0),
    Key("optim", str, "adamw", "The optimizer.", choices=("adamw",)),
    Key("weight_decay", float, 0.0, "Weight decay of AdamW.", low=0),
    Key("adam_beta1", float, 0.9, "AdamW's decay rate of the first moment.", low=0, below=1),
    Key("adam_beta2", float, 0.999, "AdamW's decay rate of the second moment.", low=0, below=1),
    Key("adam_epsilon", float, 1e-8, "AdamW's epsilon, which avoids division by zero.", above=0),
    Key("max_grad_norm", float, 1.0, "Clip gradients to this norm; 0: no clipping.", low=0),
)

_PRECISION = (
    Key("recompute", bool, False, "Recompute activations in the backward pass."),
    Key(
        "recompute_granularity",
        str,
        "full",
        "What to recompute in a layer: full, full_attn or core_attn.",
        choices=("full", "full_attn", "core_attn"),
    ),
    Key("recompute_use_reentrant", bool, False, "Which recompute implementation of Paddle to use."),
    Key("bf16", bool, False, "Compute in bfloat16."),
    Key("fp16", bool, False, "Compute in float16."),
    Key(
        "fp16_opt_level",
        str,
        "O1",
        "Mixed precision level: O1, suitable operations; O2, weights too, with a float32 copy.",
        choices=("O0", "O1", "O2"),
    ),
    Key("scale_loss", float, 2.0**15, "Initial loss scale for float16.", above=0),
    Key("amp_master_grad", bool, False, "Accumulate gradients in float32."),
    Key("amp_custom_black_list", list, None, "Operations that stay in float32."),
    Key("amp_custom_white_list", list, None, "Operations that always use the lower precision."),
)

_EVALUATION = (
    Key(
        "evaluation_strategy", str, "no", "When to evaluate: no, steps, epoch.", choices=_STRATEGIES
    ),
    Key("eval_steps", int, None, "Steps between evaluations.", low=1),
    Key("max_evaluate_steps", int, -1, "Maximum number of evaluation batches; -1: all.", low=-1),
    Key(
        "load_best_model_at_end", bool, False, "Write the best checkpoint at the end, not the last."
    ),
    Key(
        "metric_for_best_model",
        str,
        None,
        "Metric that selects the best checkpoint: loss, or another one of the evaluation.",
        choices=_METRICS,
    ),
    Key("greater_is_better", bool, None, "Whether a greater metric is better."),
    Key("logging_strategy", str, "steps", "When to log: steps, epoch, no.", choices=_STRATEGIES),
    Key("logging_steps", int, 500, "Steps between log lines.", low=1),
    Key("logging_first_step", bool, False, "Log the first step too."),
    Key("save_strategy", str, "steps", "When to save: steps, epoch, no.", choices=_STRATEGIES),
    Key("save_steps", int, 500, "Steps between checkpoints.", low=1),
    Key(
        "save_total_limit", int, None, "Complete checkpoints to keep; oldest removed first.", low=1
    ),
)

_KERNELS = (  # what the backend has, checked in checks.py
    Key("use_flash_attention", bool, False, "Compute attention in tiles, without its matrix."),
    Key("flash_mask", bool, False, "With zero_padding: flash attention's masks as ranges."),
    Key("use_fused_rms_norm", bool, False, "Compute each norm in one kernel."),
    Key("use_fused_rope", bool, False, "Rotate queries and keys in one kernel."),
    Key("use_fused_linear", bool, False, "Compute a product and its bias in one kernel."),
    Key("use_fused_dropout_add", bool, False, "Compute dropout and addition in one kernel."),
    Key("use_fast_layer_norm", bool, False, "Fast kernel for LayerNorm; Llama has no LayerNorm."),
    Key("weight_quantize_algo", str, None, "Storage format of the frozen weights, for LoRA."),
)

_PARALLEL = (
    Key("tensor_parallel_degree", int, -1, "Devices that share each matrix; -1: one.", low=-1),
    Key("tensor_parallel_output", bool, False, "Keep the logits divided among these devices."),
    Key("tensor_parallel_config", str, "", "Upstream's flags of tensor parallelism."),
    Key("pipeline_parallel_degree", int, -1, "Pipeline stages; -1: one.", low=-1),
    Key("pipeline_parallel_config", str, "", "Upstream's flags of the pipeline."),
    Key("virtual_pp_degree", int, 1, "Layer chunks per stage; more: less waiting.", low=1),
    Key("pp_recompute_interval", int, 1, "With a pipeline: layers recomputed together.", low=1),
    Key("sep_parallel_degree", int, -1, "Devices sharing a sequence by heads; -1: one.", low=-1),
    Key(
        "context_parallel_degree", int, -1, "Devices sharing a sequence in a ring; -1: one.", low=-1
    ),
    Key("sequence_parallel", bool, False, "With tensor parallelism: split activations by tokens."),
    Key("sequence_parallel_config", str, "", "Upstream's flags of sequence parallelism."),
    Key(
        "fuse_sequence_parallel_allreduce", bool, False, "Sum sequence-parallel gradients at once."
    ),
    Key("data_parallel_config", str, "", "Upstream's flags of data parallelism."),
    Key(
        "sharding",
        object,
        "",
        "What to shard: stage1, the optimizer state; stage2, gradients too; stage3, weights too.",
    ),
    Key("sharding_degree", int, -1, "An older name of sharding_parallel_degree.", low=-1),
    Key("sharding_parallel_degree", int, -1, "Devices per sharding group; -1: all others.", low=-1),
    Key("sharding_parallel_config", str, "", "Upstream's flags of sharding."),
    Key("sharding_parallel_mesh_dimension", str, "dp", "Mesh dimension of sharding."),
    Key("sharding_comm_buffer_size_MB", int, -1, "Sharding's buffer size; -1: upstream's default."),
    Key(
        "hybrid_parallel_topo_order",
        str,
        None,
        "Order in which devices are assigned to the pipeline and to sharding.",
        choices=("pp_first", "sharding_first", None),
    ),
    Key("ddp_find_unused_parameters", bool, None, "Find weights without a gradient."),
    Key("no_recompute_layers", list, None, "Indexes of layers that keep their activations."),
    Key("release_grads", bool, False, "Free gradients after each step and allocate them again."),
)

# Upstream's QuantArgument.
_QUANTIZATION = (
    Key("do_ptq", bool, True, "Quantize the model by calibration."),
    Key(
        "quant_type",
        str,
        "a8w8",
        "What is in 8 bits: weight_only_int8, weights; a8w8, also activations; a8w8c8, also KV.",
        choices=_QUANT_TYPES,
    ),
    Key(
        "weight_quant_method",
        str,
        "abs_max_channel_wise",
        "Scale of weights: abs_max_channel_wise, one per output channel.",
        choices=("abs_max_channel_wise",),
    ),
    Key(
        "act_quant_method",
        str,
        "avg",
        "Scale of activations: avg, the mean of the rows' maxima; abs_max, the largest value.",
        choices=("avg", "abs_max"),
    ),
    Key(
        "cachekv_quant_method",
        str,
        "avg_headwise",
        "Scale of the KV cache: avg_headwise or abs_max_headwise, one per head.",
        choices=("avg_headwise", "abs_max_headwise"),
    ),
    Key("skip_list_names", list, None, "Projections that are not quantized: parts of their names."),
    Key("ptq_step", int, 32, "Calibration batches.", low=1),
    Key("shift", bool, False, "Center the channels after norms around zero."),
    Key("shift_all_linears", bool, False, "Also center the inputs of the other projections."),
    Key(
        "shift_sampler",
        str,
        "ema",
        "A channel's center: ema, a running mean of batch centers; none, the middle of its range.",
        choices=("ema", "none"),
    ),
    Key("shift_step", int, 32, "Batches that estimate the centers.", low=1),
    Key("smooth", bool, False, "Scale outlier channels after norms down."),
    Key("smooth_all_linears", bool, False, "Also smooth the inputs of the other projections."),
    Key("smooth_step", int, 32, "Batches that measure the channels.", low=1),
)

GROUPS: dict[str, tuple[Key, ...]] = {
    "Model": _MODEL,
    "Fine-tuning data": _ANSWERS,
    "Pretraining data": _TEXT,
    "Run": _RUN,
    "LoRA": _LORA,
    "Optimization": _OPTIMIZATION,
    "Memory and precision": _PRECISION,
    "Evaluation, logging, saving": _EVALUATION,
    "Kernels": _KERNELS,
    "Parallelism": _PARALLEL,
    "Quantization": _QUANTIZATION,
}
"""The keys that have an effect in some job, by topic."""

PARALLEL = tuple(key.name for key in _PARALLEL)
"""The keys of parallelism."""

FUSED_KEYS = (
    "use_flash_attention",
    "flash_mask",
    "use_fused_rms_norm",
    "use_fused_rope",
    "use_fused_linear",
    "use_fused_dropout_add",
    "use_fast_layer_norm",
)

_ELSEWHERE = "this job supports LoRA and full fine-tuning only"
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
            "it changes the base model's weights, so its adapter does not fit other copies",
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
        ("fuse_attention_qkv", bool, None, "the weights keep the layout of their files"),
        ("fuse_attention_ffn", bool, None, "the weights keep the layout of their files"),
    )
)

_REFUSED = tuple(
    Key(name, kind, default, refused=reason)
    for name, kind, default, reason in (
        ("to_static", bool, False, _STATIC),
        ("enable_auto_parallel", bool, False, _STATIC),
        ("from_aistudio", bool, False, "the fetch job fetches models"),
        ("save_to_aistudio", bool, False, "a run is written to its folder"),
        ("benchmark", bool, False, "it disables checkpoints and evaluation"),
        ("autotuner_benchmark", bool, False, "it disables checkpoints and evaluation"),
        (
            "use_async_save",
            bool,
            False,
            "checkpoints are written synchronously and renamed when complete",
        ),
        ("ignore_save_lr_and_optim", bool, False, "such a checkpoint cannot be resumed"),
        ("ignore_load_lr_and_optim", bool, False, "training would not continue where it stopped"),
        ("ignore_data_skip", bool, False, "training would not continue where it stopped"),
        ("skip_data_intervals", list, None, "this job trains on all of its data"),
        ("offload_optim", bool, False, "it requires an accelerator"),
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

_PROCESSES = "it requires several processes"
_OWN_LOADER = "records are tokenized once, before training"
_UNIFIED = "only checkpoints of several processes are unified"
_OWN_METRICS = "this job writes metrics.jsonl"
_OWN_METHOD = "it belongs to a disabled method"
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
        ("flatten_param_grads", bool, False, "it has an effect on an NPU only"),
        ("no_cuda", bool, False, '"device" decides'),
        ("dataloader_num_workers", int, 0, _OWN_LOADER),
        ("dataloader_drop_last", bool, False, _OWN_LOADER),
        ("remove_unused_columns", bool, True, _OWN_LOADER),
        ("eval_accumulation_steps", int, None, "predictions are counted, not kept"),
        ("prediction_loss_only", bool, False, "predictions are counted, not kept"),
        ("disable_tqdm", bool, None, "progress is reported as events"),
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
_NO_SEARCH = "this job does no search"
_MERGE_FIRST = "merge an adapter first: the export job merges"
_ON_A_CARD = "only upstream's program on a DCU supports it"

# The keys of other groups that upstream's program reads when it quantizes. These defaults are
# ours: rows of 512 tokens, one per step, take a CPU 20 seconds instead of 20 minutes.
_DEFAULTS_IN_QUANTIZE = {
    "model_name_or_path": None,
    "tokenizer_name_or_path": None,
    "dataset_name_or_path": None,
    "data_columns": None,
    "dev_ratio": DEV_RATIO,
    "src_length": 256,
    "max_length": 512,
    "output_dir": None,
    "device": None,
    "seed": 42,
    "per_device_train_batch_size": 1,
    "max_evaluate_steps": -1,
    "per_device_eval_batch_size": 8,
}

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
        ("load_quant_model", bool, False, "infer and serve load quantized models"),
        ("eval_with_do_generation", bool, False, "this job measures the perplexity"),
        ("zero_padding", bool, False, "calibration uses records one by one, without padding"),
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
        ("fp8_type", list, None, "this job quantizes to int8 only"),
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
    Key("skip_warmup", bool, True, inert="the corpus is memory-mapped"),
    Key(
        "share_folder",
        bool,
        False,
        inert="nodes share the workspace, and one process writes the index",
    ),
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
        *(*_MODEL, *_ANSWERS, *_RUN, *_LORA, *_OPTIMIZATION, *_PRECISION, *_EVALUATION, *_KERNELS),
        *(*_REFUSED, *_REFUSED_IN_FINETUNE),
        *(replace(key, inert=_PROCESSES) for key in _PARALLEL),
        *(*_INERT, *_INERT_IN_FINETUNE),
    ]


def _pretrain_keys() -> list[Key]:
    """Return the keys of ``pretrain``, with the defaults of upstream's run_pretrain.py."""
    used = (*_MODEL, *_TEXT, *_RUN, *_OPTIMIZATION, *_PRECISION, *_EVALUATION, *_KERNELS)
    choices = {
        "metric_for_best_model": ("loss", "eval_loss"),
        "lr_scheduler_type": ("linear", "cosine"),  # the two that end in a minimum
    }
    inert = {
        "num_train_epochs": '"max_steps" decides',
        "max_evaluate_steps": '"eval_iters" decides',
    }
    return [
        *(
            replace(
                key,
                choices=choices.get(key.name, key.choices),
                inert=inert.get(key.name, key.inert),
            )
            for key in (*used, *_PARALLEL, *_REFUSED, *_INERT)
        ),
        *_INERT_IN_PRETRAIN,
    ]


def _quantize_keys() -> list[Key]:
    """Return the keys of ``quantize`` on a CPU; other keys of fine-tuning are inert."""
    others = {key.name: key for key in (*_finetune_keys(), *_INERT_IN_PRETRAIN)}
    shared = [
        replace(others[name], default=default, inert="")
        for name, default in _DEFAULTS_IN_QUANTIZE.items()
    ]
    own = (*_REFUSED_IN_QUANTIZE, *_INERT_IN_QUANTIZE, *shared, *_QUANTIZATION)
    named = {key.name for key in own}
    checked = {"fp16", "bf16", "fp16_opt_level", "weight_quantize_algo", *FUSED_KEYS}
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
