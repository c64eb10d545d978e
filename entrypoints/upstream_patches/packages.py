"""Patches that make the ``paddlenlp`` package work with operators of the pinned commit.

The package 3.0.0b3 is newer than the commit that the operators are built from. The patches
restore the code of the pinned commit.
"""

from __future__ import annotations

from entrypoints.upstream_patches.patch import Edit, Patch

__all__ = ["PATCHES"]

_TEST = "tests/jobs/test_fused.py::test_the_package_needs_every_patch"
_FOLDER = "paddlenlp/experimental/transformers/"
_PADDING = "input_ids, cum_offsets_now, token_num, seq_lens_this_time\n"
_LATER_PADDING = (
    "input_ids, cum_offsets_now, token_num, seq_lens_this_time, draft_tokens, seq_lens_encoder\n"
)
_REBUILT = """\
            multi_block_output,
            cum_offsets,
            seq_lens_decoder,
            seq_lens_encoder,
            output_padding_offset,
            max_input_length,
"""
_SPECULATIVE_IMPORT = """\
from paddlenlp_ops import (
    save_output,
    speculate_get_output_padding_offset,
    speculate_get_seq_lens_output,
    speculate_set_value_by_flags_and_idx,
    speculate_verify_and_update,
    top_p_candidates,
)
"""


def _there(text: str, count: int = 1) -> tuple[Edit, ...]:
    return (Edit(text, text, count),)


PATCHES = (
    Patch(
        "operators-of-speculative-decoding",
        _FOLDER + "llama/modeling.py",
        26,
        "the package's module for Llama imports operators for speculative decoding, which the "
        "pinned commit does not have, which raises an ImportError",
        "they are not imported; speculative decoding is not used",
        _TEST,
        (
            (Edit(_SPECULATIVE_IMPORT, ""),),
            _there("from paddle.nn.quant import weight_quantize\n\nfrom paddlenlp.experimental"),
        ),
    ),
    Patch(
        "padding-offsets",
        _FOLDER + "llama/modeling.py",
        1599,
        "the package calls get_padding_offset_v2 with two more arguments, for speculative decoding",
        "it is called with its four arguments",
        _TEST,
        (
            (Edit(_LATER_PADDING, _PADDING),),
            _there(_PADDING, 2),
        ),
    ),
    Patch(
        "rebuilt-padding",
        _FOLDER + "fused_transformer_layers.py",
        2356,
        "the package calls rebuild_padding_v2 with one more argument, for speculative decoding",
        "it is called with its five arguments",
        _TEST,
        (
            (Edit(_REBUILT, _REBUILT.replace("            output_padding_offset,\n", "")),),
            _there("rebuild_padding_v2(multi_block_output, cum_offsets, seq_lens_decoder", 2),
        ),
    ),
    Patch(
        "operator-of-a-proposer",
        _FOLDER + "proposers.py",
        19,
        "the package imports ngram_match, an operator for speculative decoding",
        "it is not imported",
        _TEST,
        ((Edit("from paddlenlp_ops import ngram_match\n", ""),),),
    ),
)
