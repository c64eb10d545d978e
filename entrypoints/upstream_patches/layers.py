"""Patches of the fused layers and of the model that is made of them."""

from __future__ import annotations

from entrypoints.upstream_patches.patch import CPU, DCU, Edit, Patch

__all__ = ["PATCHES"]

_NEEDED = "tests/jobs/test_fused.py::test_the_package_needs_every_patch"
_LAYERS = "paddlenlp/experimental/transformers/fused_transformer_layers.py"
_LLAMA = "paddlenlp/experimental/transformers/llama/modeling.py"

_PINNED_IMPORT = """\
    try:
        from paddlenlp_ops import (
            dequant_int8,
            encode_rotary_qk,
            gemm_dequant,
            qkv_transpose_split,
            quant_int8,
            rebuild_padding,
            transpose_remove_padding,
            write_cache_kv,
        )
    except:
        pass
"""
_LATER_IMPORT = _PINNED_IMPORT.replace("            gemm_dequant,\n", "")
_IMPORT = """\
    from paddlenlp_ops import (
        dequant_int8,
        encode_rotary_qk,
        qkv_transpose_split,
        quant_int8,
        rebuild_padding,
        transpose_remove_padding,
        write_cache_kv,
    )
"""
_LATER_GATE = (
    "if (\n"
    "    paddle.device.get_all_custom_device_type() is not None "
    "and len(paddle.device.get_all_custom_device_type()) > 0\n"
    ") or paddle.is_compiled_with_cuda():\n"
    "    from paddlenlp_ops import rebuild_padding_v2\n"
)

_ATTENTION_IMPORT = """\
    masked_multihead_attention,
    variable_length_memory_efficient_attention,
)
"""
_WRITE = "        write_cache_kv(k_out, v_out, caches[i], seq_lens + pre_caches_length)\n"
_HEAD = """\
        if "lm_head.weight" in state_dict:
            self.lm_head.weight.set_value(
                paddle.to_tensor(state_dict["lm_head.weight"]).cast(self.lm_head.weight.dtype)
            )
"""
_TIED_HEAD = f"""\
        if self.config.tie_word_embeddings:
            head = state_dict["llama.embed_tokens.weight"].T
            state_dict = {{**state_dict, "lm_head.weight": head}}
{_HEAD}"""
_ROCM, _NOT_CUDA = "paddle.is_compiled_with_rocm()", "(not paddle.is_compiled_with_cuda())"

PATCHES = (
    Patch(
        "operators-import",
        _LAYERS,
        54,
        "eight operators are imported in one `try`, with `except: pass`. gemm_dequant has not been "
        "built for ROCm since PaddleNLP#8909, so that it and the names after it stay undefined: "
        "NameError: name 'qkv_transpose_split' is not defined",
        "the seven that exist are imported; one that is missing is an ImportError",
        "tests/jobs/test_fused.py::test_an_operator_that_is_missing_is_an_import_error",
        ((Edit(_PINNED_IMPORT, _IMPORT),), (Edit(_LATER_IMPORT, _IMPORT),)),
    ),
    Patch(
        "operators-without-cuda",
        _LAYERS,
        45,
        "operators are imported only by a Paddle that is compiled with CUDA or ROCm",
        "they are imported on a CPU too",
        _NEEDED,
        (
            (Edit("if core.is_compiled_with_cuda():\n", "if True:\n"),),
            (
                Edit(_LATER_GATE, "from paddlenlp_ops import rebuild_padding_v2\n"),
                Edit("if paddle.is_compiled_with_cuda():\n", "if True:\n"),
            ),
        ),
        CPU,
    ),
    Patch(
        "dense-attention",
        _LAYERS,
        790,
        "without block attention a model needs variable_length_memory_efficient_attention, which "
        "is compiled for CUDA only (Paddle#59442), and masked_multihead_attention, whose kernel "
        "has an empty body on ROCm: the first fails, the second returns garbage",
        "both are composed of operators that a ROCm build has; slower than block attention",
        "tests/jobs/test_fused_operators.py::test_composed_attention_equals_plain_attention",
        (
            (
                Edit(
                    _ATTENTION_IMPORT,
                    ")\nfrom entrypoints.upstream_patches.attention import (\n"
                    "    masked_multihead_attention,\n"
                    "    variable_length_memory_efficient_attention,\n"
                    "    write_cache as _write_cache,\n"
                    ")\n",
                ),
                Edit(_WRITE, _WRITE.replace(" write_cache_kv(", " _write_cache("), 2),
            ),
        ),
        DCU,
    ),
    Patch(
        "quantizing-norm",
        _LAYERS,
        371,
        "the CPU's kernel of rms_norm ignores quant_scale: a8w8 gets float where int8 is expected",
        "the result is quantized by quant_int8, with the same rounding",
        _NEEDED,
        (
            (
                Edit(
                    "            self.norm_func = fused_rms_norm\n",
                    "            from entrypoints.upstream_patches.norm import rms_norm\n\n"
                    "            self.norm_func = rms_norm\n",
                    2,
                ),
            ),
            (
                Edit(
                    "            self.norm_func = fused_rms_norm\n",
                    "            from entrypoints.upstream_patches.norm import rms_norm\n\n"
                    "            self.norm_func = rms_norm\n",
                ),
            ),
        ),
        CPU,
    ),
    Patch(
        "rocm-layout",
        _LAYERS,
        1922,
        "int8 weights are transposed, as for CUDA, wherever Paddle is not a ROCm build",
        "a CPU lays them out as a DCU does, and runs the same products",
        _NEEDED,
        (
            (
                Edit(_ROCM, _NOT_CUDA, 5),
                Edit("paddle.device.is_compiled_with_rocm()", _NOT_CUDA, 3),
            ),
        ),
        CPU,
    ),
    Patch(
        "rocm-layout-of-weights",
        _LLAMA,
        920,
        "the same where the weights are read",
        "the same",
        _NEEDED,
        ((Edit(_ROCM, _NOT_CUDA, 5),),),
        CPU,
    ),
    Patch(
        "tied-head",
        _LLAMA,
        1894,
        "a checkpoint with tied embeddings has no lm_head.weight, and the head stays random: "
        "garbage without an error. One that the package has written has it, transposed: an error",
        "the head is the embedding",
        _NEEDED,
        ((Edit(_HEAD, _TIED_HEAD, 2),),),
    ),
)
