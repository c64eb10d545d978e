"""Fused Llamas whose ``generate`` returns the tokens."""

from __future__ import annotations

import json
from typing import Any

import paddle
from paddle.nn.functional import softmax
from paddlenlp.experimental.transformers.llama.modeling import (
    LlamaForCausalLMBlockInferenceModel,
    LlamaForCausalLMInferenceModel,
)
from paddlenlp.transformers import LlamaConfig

from entrypoints.fused.options import Options
from entrypoints.upstream_patches.lengths import total_length

__all__ = ["BlockModel", "DenseModel", "config_of", "length_of", "load"]


class BlockModel(LlamaForCausalLMBlockInferenceModel):  # type: ignore[misc]
    """A Llama with a block cache; each call of ``generate`` returns one token per row."""

    def sample(
        self,
        eos_token_id: Any,
        top_k: int,
        top_p: Any,
        penalty_score: Any,
        frequency_score: Any,
        presence_score: Any,
        temperature: Any = None,
        min_tokens_to_keep: int = 1,
        **model_kwargs: Any,
    ) -> Any:
        """Return the next token of each row, ``[batch, 1]``; -1 for finished rows.

        The arguments are the tensors of ``generate``; the state is updated in place.
        """
        from paddlenlp_ops import (
            get_token_penalty_multi_scores_v2,
            set_stop_value_multi_ends_v2,
            set_value_by_flags_and_idx_v2,
            update_inputs,
        )

        outputs = self(**self.prepare_inputs_for_generation(**model_kwargs))
        step_idx = model_kwargs["step_idx"]
        set_value_by_flags_and_idx_v2(
            model_kwargs["pre_ids"],
            model_kwargs["input_ids"],
            model_kwargs["seq_lens_this_time"],
            model_kwargs["seq_lens_encoder"],
            model_kwargs["seq_lens_decoder"],
            step_idx,
            model_kwargs["stop_flags"],
        )
        logits = get_token_penalty_multi_scores_v2(
            model_kwargs["pre_ids"],
            paddle.cast(outputs, paddle.float32),
            penalty_score,
            frequency_score,
            presence_score,
            temperature,
            model_kwargs["bad_tokens"],
            step_idx,
            model_kwargs["min_dec_len"],
            eos_token_id,
        )
        _, next_tokens = paddle.tensor.top_p_sampling(softmax(logits), top_p)
        step_idx = paddle.where(model_kwargs["stop_flags"], step_idx, step_idx + 1)
        paddle.assign(step_idx, model_kwargs["step_idx"])
        stop_flags = paddle.assign(model_kwargs["stop_flags"])
        set_stop_value_multi_ends_v2(
            next_tokens,
            stop_flags,
            model_kwargs["seq_lens_this_time"],
            eos_token_id,
            model_kwargs["next_tokens"],
        )
        # A row at its maximum length stops after its token, not instead of it.
        at_length = paddle.greater_equal(step_idx, model_kwargs["max_dec_len"])
        stop_flags = paddle.logical_or(stop_flags, at_length)
        paddle.assign(stop_flags, model_kwargs["stop_flags"])
        update_inputs(
            stop_flags,
            model_kwargs["not_need_stop"],
            model_kwargs["seq_lens_this_time"],
            model_kwargs["seq_lens_encoder"],
            model_kwargs["seq_lens_decoder"],
            model_kwargs["input_ids"],
            model_kwargs["stop_nums"],
            next_tokens,
            model_kwargs["is_block_step"],
        )
        return next_tokens


class DenseModel(LlamaForCausalLMInferenceModel):  # type: ignore[misc]
    """A Llama with one cache per row; ``generate`` returns all tokens of all rows."""

    def sample(
        self,
        input_ids: Any = None,
        eos_token_id: Any = None,
        cache_kvs: Any = None,
        top_p: Any = None,
        temperature: Any = None,
        inputs_embeds: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Return prompts and answers, ``[batch, prompt + answer]``.

        Finished rows are padded with the end token. The arguments are the tensors of
        ``generate``.
        """
        model_kwargs.pop("logits_processors")
        model_kwargs["all_input_ids"] = input_ids

        def forward(args: dict[str, Any]) -> Any:
            model_inputs = self.prepare_inputs_for_generation(input_ids, cache_kvs, **args)
            return self(**model_inputs)

        def choose(outputs: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
            from paddlenlp_ops import get_token_penalty_multi_scores, set_value_by_flags_and_idx

            step_idx = model_kwargs["step_idx"]
            model_kwargs["stop_flags"] = set_value_by_flags_and_idx(
                model_kwargs["pre_ids"],
                model_kwargs["tgt_ids"],
                step_idx,
                model_kwargs["stop_flags"],
            )
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            logits = get_token_penalty_multi_scores(
                model_kwargs["pre_ids"],
                paddle.cast(logits, paddle.float32),
                model_kwargs["penalty_score"],
                model_kwargs["frequency_score"],
                model_kwargs["presence_score"],
                step_idx,
                model_kwargs["min_dec_len"],
                eos_token_id,
            )
            _, next_tokens = paddle.tensor.top_p_sampling(softmax(logits / temperature), top_p)
            model_kwargs = self.update_model_kwargs_for_generation(
                model_kwargs.get("cache"),
                model_kwargs["seq_len_encoder"] == 0,
                next_tokens,
                eos_token_id,
                model_kwargs,
            )
            model_kwargs["all_input_ids"] = paddle.concat(
                [model_kwargs["all_input_ids"], model_kwargs["next_tokens"]], axis=1
            )
            return model_kwargs

        model_kwargs = choose(forward(model_kwargs), model_kwargs)
        model_kwargs["cache"] = 0  # any value, because prompts are complete
        while paddle.less_than(
            paddle.sum(paddle.cast(model_kwargs["stop_flags"], "int64")), model_kwargs["stop_nums"]
        ):
            model_kwargs = choose(forward(model_kwargs), model_kwargs)
        return model_kwargs["all_input_ids"]


def length_of(options: Options) -> int:
    """Return the number of positions of caches and masks."""
    return total_length(options.model_name_or_path, options.src_length + options.max_length)


def config_of(options: Options) -> LlamaConfig:
    """Return the model's configuration with the settings of the fused model."""
    config = LlamaConfig.from_pretrained(options.model_name_or_path)
    quantized = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    quant_type = (quantized.get("quantization_config") or {}).get("quant_type") or ""
    config.tensor_parallel_degree, config.tensor_parallel_rank = 1, 0
    config.model_name_or_path = options.model_name_or_path
    config.quant_type = quant_type
    config.cachekv_int8_type = "static" if "c8" in quant_type else options.cachekv_int8_type or None
    config.use_fake_parameter = config.append_attn = False
    config.single_card_ptq = True
    config.max_seq_len = length_of(options)
    config.block_size = options.block_size
    # Settings of training that fused layers do not support.
    config.use_flash_attention = False
    return config


def load(options: Options) -> Any:
    """Return the fused model of a checkpoint."""
    kind = BlockModel if options.block_attn else DenseModel
    model = kind.from_pretrained(
        options.model_name_or_path, config=config_of(options), dtype=options.dtype
    )
    model.eval()
    return model
