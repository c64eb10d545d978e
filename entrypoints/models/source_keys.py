"""The keys of a Hugging Face model's JSON files: used, harmless, or accepted with one value only.

Keys outside of these tables may change what a model computes, so ``fetch`` warns about them.
The tables follow ``PreTrainedConfig``, ``LlamaConfig``,
``GenerationConfig`` and ``PreTrainedTokenizerBase`` of transformers 4.40 to 5.24.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_stacks.errors import Problem

__all__ = [
    "CONFIG",
    "GENERATION",
    "OPTION",
    "TOKENIZER",
    "KeyRule",
    "unknown_keys",
    "unsupported_values",
]


@dataclass(frozen=True)
class KeyRule:
    """The treatment of a key by the conversion.

    Args:
        used: whether the conversion reads the key; other keys are not copied.
        accepted: the only values that are accepted besides null; None for any value.
        reason: why a key without ``used`` can be ignored, or why other values cannot work.
    """

    used: bool = False
    accepted: tuple[Any, ...] | None = None
    reason: str = ""


def _used(*keys: str) -> dict[str, KeyRule]:
    return dict.fromkeys(keys, KeyRule(used=True))


def _harmless(reason: str, *keys: str) -> dict[str, KeyRule]:
    return dict.fromkeys(keys, KeyRule(reason=reason))


def _only(value: Any, reason: str, *keys: str) -> dict[str, KeyRule]:
    accepted = value if isinstance(value, tuple) else (value,)
    return dict.fromkeys(keys, KeyRule(accepted=accepted, reason=reason))


_PROCESSOR = "PaddleNLP's generation has no such logits processor"
OPTION = "set by the options of infer and the fields of a request"
_BOOKKEEPING = "records the program that wrote the file"
_OUTPUT = "changes the return value in Python, not the computation"

GENERATION: Mapping[str, KeyRule] = {
    **_used("bos_token_id", "eos_token_id", "pad_token_id", "repetition_penalty"),
    **_harmless(
        OPTION,
        *("do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens", "max_time"),
        *("num_return_sequences",),
    ),
    **_harmless(
        "changes sampling only, never the most likely token",
        *("typical_p", "epsilon_cutoff", "eta_cutoff", "min_p", "top_h", "renormalize_logits"),
    ),
    **_harmless("acts on beams only", "length_penalty", "early_stopping", "low_memory"),
    **_harmless(
        "speeds up generation without changing the tokens",
        *("use_cache", "cache_implementation", "cache_config", "prefill_chunk_size"),
        *("compile_config", "disable_compile", "is_assistant", "num_assistant_tokens"),
        *("num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size", "continuous_batching_config"),
    ),
    **_harmless(
        _OUTPUT,
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "remove_invalid_values", "decoder_start_token_id"),
    ),
    **_harmless(_BOOKKEEPING, "transformers_version", "_from_model_config"),
    **_only(1, "beam search is not supported", "num_beams", "num_beam_groups"),
    **_only((0, 0.0), _PROCESSOR, "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    **_only((0, 0.0), _PROCESSOR, "min_length", "min_new_tokens", "diversity_penalty"),
    **_only((1, 1.0), _PROCESSOR, "encoder_repetition_penalty", "guidance_scale"),
    **_only(
        ([],),
        _PROCESSOR,
        *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias"),
        *("force_words_ids", "constraints", "forced_decoder_ids"),
    ),
    **_only(
        (),
        _PROCESSOR,
        *("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"),
        *("penalty_alpha", "watermarking_config", "stop_strings", "dola_layers"),
    ),
    **_only(False, "the last token of the prompt would be split again", "token_healing"),
}
"""The keys of ``generation_config.json``. Older models have them in ``config.json``."""

_NOT_LLAMA = "PaddleNLP's Llama has no such layer"

CONFIG: Mapping[str, KeyRule] = {
    **GENERATION,
    **_used(
        *("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size"),
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
        *("initializer_range", "use_cache"),
        *("original_max_position_embeddings", "sliding_window", "attention_chunk_size"),
        *("layer_types",),
        *("rope_theta", "rope_scaling", "rope_parameters", "head_dim"),
    ),
    **_only(("silu", "swish"), "PaddleNLP's Llama has silu only", "hidden_act"),
    **_only(False, _NOT_LLAMA, "attention_bias", "mlp_bias", "qkv_bias", "use_qk_norm", "qk_norm"),
    **_only(False, "only decoders are supported", "is_encoder_decoder", "add_cross_attention"),
    **_only(
        (1, 1.0), "PaddleNLP's Llama rotates whole heads", "partial_rotary_factor", "rotary_pct"
    ),
    **_only(
        (),
        "the number format of the weights is not supported; use the model that is not quantized",
        *("quantization_config", "compression_config"),
    ),
    **_only(0, "PaddleNLP's Llama has keys and values in every layer", "num_kv_shared_layers"),
    **_only(({}, []), "the weights of pruned heads are missing", "pruned_heads"),
    **_only(0, "the two would compute differently", "chunk_size_feed_forward"),
    **_harmless("the type in the weight files is used", "torch_dtype", "dtype", "use_bfloat16"),
    **_harmless("only affects training", "attention_dropout", "hidden_dropout", "resid_pdrop"),
    **_harmless("only affects training", "attn_pdrop", "embd_pdrop", "gradient_checkpointing"),
    **_harmless("splits a product without changing the result", "pretraining_tp"),
    **_harmless(
        "transformers' Llama does not read it",
        *("use_sliding_window", "max_window_layers", "is_decoder"),
        *("tie_encoder_decoder", "cross_attention_hidden_size", "tokenizer_class", "prefix"),
        *("sep_token_id", "unk_token_id", "cls_token_id", "mask_token_id", "rope_interleaved"),
        *("model_max_length", "tokenizer_model_max_length", "seq_length", "max_sequence_length"),
    ),
    **_harmless(
        "for other tasks than causal language modelling",
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
        *("task_specific_params", "classifier_dropout", "pooling"),
    ),
    **_harmless("the code of the model's repository is never run", "auto_map"),
    **_harmless(_OUTPUT, "return_dict", "use_return_dict", "torchscript", "tf_legacy_loss"),
    **_harmless(
        "selects a kernel without changing the result",
        *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation"),
        *("_flash_attn_2_enabled", "use_flash_attn", "use_flash_attention"),
        *("_experts_implementation",),
    ),
    **_harmless(
        _BOOKKEEPING,
        *("_name_or_path", "_commit_hash", "unsloth_version", "unsloth_fixed", "model_name"),
        *("base_model_tp_plan", "base_model_pp_plan", "transformers.js_config"),
    ),
}
"""The keys of ``config.json``."""

TOKENIZER: Mapping[str, KeyRule] = {
    **_used(
        *("tokenizer_class", "bos_token", "eos_token", "pad_token", "unk_token", "sep_token"),
        *("cls_token", "mask_token", "additional_special_tokens", "extra_special_tokens"),
        *("added_tokens_decoder", "chat_template", "model_max_length", "add_bos_token"),
        *("add_eos_token", "add_prefix_space", "legacy"),
    ),
    **_only(({},), "PaddleNLP's tokenizer ignores them", "sp_model_kwargs"),
    **_only(False, "special tokens in texts are always recognized", "split_special_tokens"),
    **_only(False, "PaddleNLP's tokenizers do not change the text", "do_lower_case"),
    **_only(False, "it overrides rules of tokenizer.json", "fix_mistral_regex"),
    **_harmless(
        "the jobs pad and truncate prompts themselves",
        *("padding_side", "truncation_side", "padding", "truncation", "max_length", "stride"),
        *("truncation_strategy", "pad_to_multiple_of", "pad_token_type_id", "pad_token_id"),
        *("model_input_names", "return_token_type_ids"),
    ),
    **_harmless(
        "changes the text of answers, not tokens; answers keep the model's spaces",
        *("clean_up_tokenization_spaces", "spaces_between_special_tokens", "errors"),
    ),
    **_harmless("the template in the file is used", "use_default_system_prompt"),
    **_harmless("the code of the model's repository is never run", "auto_map"),
    **_harmless(
        _BOOKKEEPING,
        *("name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "use_fast"),
        *("merges_file", "processor_class", "backend", "is_local", "local_files_only"),
        *("from_slow", "trust_remote_code", "device_map", "_commit_hash", "transformers_version"),
        *("tokenizer_type", "unsloth_version", "bos_token_id", "eos_token_id", "unk_token_id"),
    ),
}
"""The keys of ``tokenizer_config.json``."""


def unsupported_values(
    values: Mapping[str, Any], rules: Mapping[str, KeyRule], where: str
) -> list[Problem]:
    """Return a problem for each key with a value that the conversion cannot reproduce.

    Args:
        values: of the file.
        rules: of its keys.
        where: the file.
    """
    problems = []
    for key, value in values.items():
        rule = rules.get(key)
        if value is None or rule is None or rule.accepted is None or value in rule.accepted:
            continue
        problems.append(
            Problem(
                f"{key} is {value!r:.60}: {rule.reason}",
                where,
                "choose another model: this one would compute something else here",
            )
        )
    return problems


def unknown_keys(values: Iterable[str], rules: Mapping[str, KeyRule]) -> list[str]:
    """Return the keys of a file that no rule covers, in order."""
    return sorted(key for key in values if key not in rules)
