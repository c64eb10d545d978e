"""Patches of the generation loop."""

from __future__ import annotations

from entrypoints.upstream_patches.patch import Edit, Patch

__all__ = ["PATCHES"]

_GENERATION = "paddlenlp/experimental/transformers/generation_utils.py"

_DENSE_LENGTH = """\
        model_kwargs["stop_flags"] = paddle.logical_or(model_kwargs["stop_flags"], length_cond)
"""
_DENSE_TOKEN = """\
        if cache is None:
            next_tokens = paddle.where(just_decoder, paddle.full_like(next_tokens, -1), next_tokens)
        from paddlenlp_ops import set_stop_value_multi_ends

        next_tokens, model_kwargs["stop_flags"] = set_stop_value_multi_ends(
            next_tokens, model_kwargs["stop_flags"], eos_token_id, 2
        )  # multi ends
"""
_DENSE = Edit(_DENSE_LENGTH + _DENSE_TOKEN, _DENSE_TOKEN + _DENSE_LENGTH)
_BLOCK = (
    Edit(
        '            stop_flags = paddle.logical_or(model_kwargs["stop_flags"], length_cond)\n',
        '            stop_flags = paddle.assign(model_kwargs["stop_flags"])\n',
    ),
    Edit(
        '            paddle.assign(stop_flags, model_kwargs["stop_flags"])\n',
        "            stop_flags = paddle.logical_or(stop_flags, length_cond)\n"
        '            paddle.assign(stop_flags, model_kwargs["stop_flags"])\n',
    ),
)

PATCHES = (
    Patch(
        "last-token",
        _GENERATION,
        689,
        "the token at max_length is replaced by the end token: N-1 of N tokens are returned",
        "a row at its maximum length stops after its token",
        "tests/jobs/test_fused.py::test_the_package_needs_every_patch",
        # The package's block loop is in an operator of a later PaddleNLP, and in this project's.
        ((_DENSE, *_BLOCK), (_DENSE,)),
    ),
)
