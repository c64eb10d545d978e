"""Compute the operators on a device and keep what they return.

usage: reference.py DEVICE OUTPUT [FILE NAME [CASE…]]

With DEVICE ``cpu`` the operators are those of /opt/cpu-operators, the reference; with ``gpu``
those of the image, on a card. Inputs are seeded, so that two processes have the same ones.
Shapes are Llama-2-13b's, with fewer heads and rows. The function NAME of FILE is called first: it
makes an operator wrong; cases that do not begin with a CASE are left out. OUTPUT is a JSON object:

    {case: {"operator": …, "dtype": …, "state": "computed" | "missing" | "failed",
            "message": …, "outputs": {name: {"data": base64 of float64s, "shape": …,
                                             "allowed": …}}}}

``data`` is compressed. ``allowed`` is how far a correct card may be from the reference. Both
multiply and add in float32 and round results to the type, whose unit roundoff is u; a card's
attention may also round its weights before it sums the values. Inputs of attention are uniform
below 1, with a deviation of 0.58. Rotated queries and keys, rounded otherwise in 128 products
of 0.34 u each, move a score by 0.27 u in deviation; eight of those change the weights by 4.4 u
at most, and with the roundings of the keys' sum, the weights and the result (4 u) attention by
8.4 u of the largest value, 1.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import runpy
import sys
import traceback
import zlib
from pathlib import Path

DEVICE, OUTPUT = sys.argv[1:3]
FOLDER = os.environ.get("PADDLE_STACKS_CPU_OPERATORS", "/opt/cpu-operators")
if DEVICE == "cpu":
    sys.path.insert(0, f"{FOLDER}/site")

import numpy as np  # noqa: E402
import paddle  # noqa: E402
import paddle.incubate.nn.functional as F  # noqa: E402

if DEVICE == "cpu":
    # A ROCm build has no custom devices, so it heeds no CUSTOM_DEVICE_ROOT.
    ctypes.CDLL(f"{FOLDER}/kernels/libpaddle_stacks_cpu_kernels.so")

HEADS, HEAD_DIM, BLOCK, HIDDEN = 8, 128, 64, 5120
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# What a ROCm build registers; float32 has no block attention there.
HALVES = ("float16", "bfloat16")

CASES = {}


def case(operator: str, *dtypes: str):
    """Register a function ``(dtype) -> {name: (tensor, allowed)}`` for each of its types."""

    def register(function):
        for dtype in dtypes:
            CASES[f"{function.__name__}-{dtype}"] = (operator, dtype, function)
        return function

    return register


def operators():
    import paddlenlp_ops

    return paddlenlp_ops


def random(seed: int, shape, dtype: str, scale: float = 1.0):
    """Return a tensor of values that every type holds: multiples of scale/64 below 4 * scale."""
    values = np.random.default_rng(seed).integers(-255, 256, shape) / 64 * scale
    return paddle.to_tensor(values.astype("float32")).cast(dtype)


def ints(values, dtype: str = "int32"):
    return paddle.to_tensor(np.asarray(values, dtype))


def attention_allowed(dtype: str) -> float:
    """Return the tolerance of attention over values below 1."""
    return 8.4 * ROUNDOFF[dtype]


def rope_table(length: int):
    """Return [2, 1, length, 1, HEAD_DIM], GPT-NeoX's style."""
    angles = np.outer(np.arange(length), 10000.0 ** (-np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2)))
    angles = np.concatenate([angles, angles], 1)
    table = np.stack([np.cos(angles), np.sin(angles)]).astype("float32")
    return paddle.to_tensor(table[:, None, :, None])


class Blocks:
    """A batch with a cache in blocks, which ``step`` fills."""

    def __init__(self, dtype: str, rows: int, *, int8: bool = False):
        self.dtype, self.rows = dtype, rows
        self.past = [0] * rows
        each = 4
        order = np.random.default_rng(5).permutation(rows * each)
        self.tables = ints(order.reshape(rows, each))
        shape = [rows * each, HEADS, BLOCK, HEAD_DIM]
        kind = "uint8" if int8 else dtype
        self.keys, self.values = paddle.zeros(shape, kind), paddle.zeros(shape, kind)
        self.scales = {}
        if int8:
            for name in ("k", "v"):
                self.scales[f"cache_{name}_quant_scales"] = paddle.full([HEADS], 32.0)
                self.scales[f"cache_{name}_dequant_scales"] = paddle.full([HEADS], 1 / 32)

    def step(self, lengths, seed: int, *, is_prompt: bool, qkv=None):
        total = sum(lengths)
        if qkv is None:
            qkv = random(seed, (total, 3 * HEADS * HEAD_DIM), self.dtype, 0.25)
        starts = ints([0, *np.cumsum(lengths)])
        cum = np.cumsum([max(lengths) - n for n in lengths])
        before = ints([0, *cum[:-1]])
        padding = np.repeat([0, *cum[:-1]], lengths)
        encoder = ints([n if is_prompt else 0 for n in lengths]).reshape([-1, 1])
        decoder = [0 if is_prompt or not n else p for n, p in zip(lengths, self.past, strict=True)]
        decoder = ints(decoder).reshape([-1, 1])
        longest = F.blha_get_max_len(encoder, decoder, before)
        out = F.block_multihead_attention(
            qkv, self.keys, self.values, encoder, decoder, ints(lengths).reshape([-1, 1]),
            ints(padding), before, starts, starts, self.tables, rope_emb=rope_table(256),
            max_enc_len_this_time=longest[0], max_dec_len_this_time=longest[1],
            max_seq_len=max(lengths), block_size=BLOCK, use_neox_style=True, quant_round_type=1,
            quant_max_bound=127.0, quant_min_bound=-127.0, **self.scales,
        )[0]  # fmt: skip
        self.past = [p + n for p, n in zip(self.past, lengths, strict=True)]
        return out


PROMPTS = [70, 1, 62]  # a block and some, one token, nearly a block


@case("block_multihead_attention", *HALVES)
def block_attention_prompt(dtype):
    return {"out": (Blocks(dtype, 3).step(PROMPTS, 1, is_prompt=True), attention_allowed(dtype))}


@case("block_multihead_attention", *HALVES)
def block_attention_prompt_is_causal(dtype):
    outputs = []
    for change in (0.0, 2.0):
        qkv = random(2, (40, 3 * HEADS * HEAD_DIM), dtype, 0.25)
        qkv[-1] = qkv[-1] + change  # another last token, which no other may see
        outputs.append(Blocks(dtype, 1).step([40], 0, is_prompt=True, qkv=qkv)[:-1])
    return {
        "change of earlier tokens": (outputs[1].cast("float32") - outputs[0].cast("float32"), 0.0)
    }


@case("block_multihead_attention", *HALVES)
def block_attention_steps(dtype):
    blocks = Blocks(dtype, 3)
    blocks.step(PROMPTS, 3, is_prompt=True)
    outputs = {}
    for i in range(4):  # the third row crosses into its second block, the second row ends
        lengths = [1, 1 if i < 2 else 0, 1]
        out = blocks.step(lengths, 10 + i, is_prompt=False)
        outputs[f"step {i}"] = (out, attention_allowed(dtype))
    return outputs


@case("block_multihead_attention (int8 cache)", *HALVES)
def block_attention_int8_cache(dtype):
    blocks = Blocks(dtype, 3, int8=True)
    blocks.step(PROMPTS, 4, is_prompt=True)
    out = blocks.step([1, 1, 1], 20, is_prompt=False)
    # A key between two integers may be rounded to either. If all are, a score moves by a
    # quantum of 1/32 times 0.58, weights by twice that, and a value by a quantum.
    return {"out": (out, attention_allowed(dtype) + 2 * 0.58 / 32 + 1 / 32)}


@case("masked_multihead_attention", *HALVES)
def masked_attention(dtype):
    cache = random(6, (2, 3, HEADS, 96, HEAD_DIM), dtype, 0.25)
    outputs = {}
    for i in range(2):
        lengths = [80 + i, 0, 5 + i]  # the second row is finished
        rows = rope_table(96)[:, 0, :, 0].numpy()[:, lengths].reshape(2, 3, 1, 1, HEAD_DIM)
        out = F.masked_multihead_attention(
            random(30 + i, (3, 3 * HEADS * HEAD_DIM), dtype, 0.25), cache,
            sequence_lengths=ints(lengths).reshape([3, 1]),
            rotary_tensor=paddle.to_tensor(rows), rotary_emb_dims=1, use_neox_rotary_style=True,
        )[0]  # fmt: skip
        outputs[f"step {i}"] = (paddle.stack([out[0], out[2]]), attention_allowed(dtype))
    return outputs


@case("variable_length_memory_efficient_attention", *HALVES)
def variable_length_attention(dtype):
    q, k, v = (random(40 + i, (3, HEADS, 70, HEAD_DIM), dtype, 0.25) for i in range(3))
    lengths = ints(PROMPTS).reshape([3, 1])
    out = F.variable_length_memory_efficient_attention(
        q, k, v, lengths, lengths, scale=HEAD_DIM**-0.5, causal=True
    )
    rows = [out[b, :, :n].reshape([-1]) for b, n in enumerate(PROMPTS)]
    return {"out": (paddle.concat(rows), attention_allowed(dtype))}


@case("fused_bias_act", *HALVES)
def fused_bias_act(dtype):
    x = random(50, (4, 2 * 1728), dtype)
    out = F.fused_bias_act(x, act_method="swiglu")
    # exp of the type's own arithmetic, and three roundings.
    return {"out": (out, 4 * ROUNDOFF[dtype] * 16)}


@case("fused_bias_act (int8)", *HALVES)
def fused_bias_act_int8(dtype):
    x = ints(np.random.default_rng(51).integers(-4000, 4000, (4, 2 * 1728)))
    scales = paddle.full([2 * 1728], 2.0**-10)
    compute = {"float16": "fp16", "bfloat16": "bf16"}[dtype]
    out = F.fused_bias_act(x, None, scales, None, None, "swiglu", compute, 0.05, 1, 127.0, -127.0)
    return {"out": (out, 1.0)}  # an integer, where a product lies between two


@case("matmul (int8)", "int8")
def matmul_int8(dtype):
    x, y = (
        paddle.to_tensor(np.random.default_rng(52 + i).integers(-127, 128, s).astype("int8"))
        for i, s in enumerate(((4, HIDDEN), (HIDDEN, 256)))
    )
    return {"out": (paddle.matmul(x, y), 0.0)}


@case("fused_rms_norm (phi)", *HALVES)
def rms_norm(dtype):
    x, residual = random(54, (4, HIDDEN), dtype), random(55, (4, HIDDEN), dtype)
    weight = random(56, (HIDDEN,), dtype)
    out = F.fused_rms_norm(x, weight, None, 1e-5, 1, residual=residual)
    # Values below 8 are divided by about 3.2, and multiplied by weights below 4.
    u = ROUNDOFF[dtype]
    return {"out": (out[0], 4 * u * 10), "residual": (out[1], 2 * u * 8)}


@case("quant_int8", "float32", *HALVES)
def quant_int8_rounds_halves(dtype):
    # 64 * (1/64) is 1: halves stay halves. Type 0 rounds them to even, type 1 from zero.
    halves = paddle.to_tensor((np.arange(-64, 64) / 2).astype("float32").reshape(2, 64))
    return {
        f"round_type {kind}": (
            operators().quant_int8(halves.cast(dtype), None, None, 1 / 64, kind, 64.0, -64.0),
            0.0,
        )
        for kind in (0, 1)
    }


@case("dequant_int8", "float32", *HALVES)
def dequant_int8(dtype):
    x = ints(np.random.default_rng(57).integers(-(2**15), 2**15, (4, 512)))
    out = operators().dequant_int8(x, paddle.full([512], 2.0**-12), dtype)
    return {"out": (out, ROUNDOFF[dtype] * 8)}


@case("encode_rotary_qk", *HALVES)
def encode_rotary_qk(dtype):
    q, k = (random(58 + i, (2, HEADS, 24, HEAD_DIM), dtype) for i in range(2))
    positions = ints(np.stack([np.arange(24)] * 2), "int64")
    table = operators().fused_get_rotary_embedding(
        positions, positions, paddle.ones([HEAD_DIM]), 0, 10000.0, True
    )
    operators().encode_rotary_qk(q, k, table, ints([24, 9]), 1, True)
    # Angles below 24 in float32: some units of 2**-24 * 24. Then one rounding of 5.7.
    return {
        "table": (table, 24 * 8 * 2.0**-24),
        "q": (q, 2 * ROUNDOFF[dtype] * 5.7),
        "k": (k, 2 * ROUNDOFF[dtype] * 5.7),
    }


@case("write_cache_kv", *HALVES)
def write_cache_kv(dtype):
    k, v = (random(60 + i, (3, HEADS, 70, HEAD_DIM), dtype) for i in range(2))
    cache = paddle.zeros([2, 3, HEADS, 96, HEAD_DIM], dtype)
    operators().write_cache_kv(k, v, cache, ints(PROMPTS))
    return {"cache": (cache, 0.0)}


@case("padding", *HALVES)
def padding(dtype):
    ids = ints(np.arange(3 * 70).reshape(3, 70), "int64")
    ends = ints(np.cumsum([70 - n for n in PROMPTS]))
    lengths = ints(PROMPTS)
    got = operators().get_padding_offset_v2(ids, ends, ints([sum(PROMPTS)], "int64"), lengths)
    x = random(62, (sum(PROMPTS), 3 * HEADS * HEAD_DIM), dtype)
    q, k, v = operators().qkv_transpose_split(x, got[2], lengths, ids, HEADS, HEAD_DIM)
    names = ("tokens", "cum_offsets", "padding_offset", "cu_seqlens_q", "cu_seqlens_k")
    outputs = dict(zip(names, got, strict=True)) | {"q": q, "k": k, "v": v}
    outputs["rows"] = operators().transpose_remove_padding(q, lengths, got[2])
    zeros = ints([0] * 3)
    outputs["last"] = operators().rebuild_padding_v2(x, got[1], zeros, lengths, 70)
    return {name: (value, 0.0) for name, value in outputs.items()}


@case("get_token_penalty_multi_scores_v2", "float32", *HALVES)
def token_penalty(dtype):
    logits = random(63, (3, 512), dtype)
    before = np.full((3, 8), -1)
    before[0, :4], before[1, :1] = [4, 4, 9, 300], [7]
    scores = [paddle.to_tensor([v] * 3).cast(dtype) for v in (1.25, 0.5, 0.25)]
    operators().get_token_penalty_multi_scores_v2(
        ints(before, "int64"), logits, *scores, paddle.to_tensor([0.5, 1.0, 2.0]),
        ints([11], "int64"), ints([4, 1, 0], "int64"), ints([1, 3, 0], "int64"), ints([2], "int64"),
    )  # fmt: skip
    # -1e10 is minus infinity in float16.
    clipped = paddle.clip(logits.cast("float32"), -100.0, 100.0)
    return {"logits": (clipped, 4 * ROUNDOFF[dtype] * 12)}


@case("bookkeeping", "int64")
def bookkeeping(dtype):
    stops = paddle.to_tensor([False, True, False])
    step, ids = ints([1, 2, 3], "int64"), ints(np.arange(12).reshape(3, 4), "int64")
    now, encoder, decoder = ints([4, 0, 1]), ints([4, 0, 0]), ints([0, 0, 9])
    before = ints(np.full((3, 8), -1), "int64")
    operators().set_value_by_flags_and_idx_v2(before, ids, now, encoder, decoder, step, stops)
    top, following = ints([[5], [6], [2]], "int64"), ints([[0]] * 3, "int64")
    ends = ints([2], "int64")
    operators().set_stop_value_multi_ends_v2(top, stops, now, ends, following)
    go = paddle.to_tensor([True])
    operators().update_inputs(
        stops, go, now, encoder, decoder, ids, ints([3], "int64"), following,
        paddle.zeros([3], "bool"),
    )  # fmt: skip
    names = {"pre_ids": before, "topk_ids": top, "next_tokens": following, "stop_flags": stops,
             "this_time": now, "decoder": decoder, "input_ids": ids, "go_on": go}  # fmt: skip
    return {name: (value, 0.0) for name, value in names.items()}


@case("fused_ln", "float32", *HALVES)
def layer_norms(dtype):
    import fused_ln

    x, scale, bias = (
        random(70, (4, HIDDEN), dtype),
        random(71, (HIDDEN,), dtype),
        random(72, (HIDDEN,), dtype),
    )
    u = ROUNDOFF[dtype]
    outputs = {}
    for name, inputs in (("ln", (x, scale, bias)), ("rms", (x, scale))):
        for value in inputs:
            value.stop_gradient = False
            value.clear_gradient()
        function = fused_ln.fused_ln if name == "ln" else fused_ln.fused_rms_norm
        y = function(*inputs, 1e-5)[0]
        y.sum().backward()
        # Sums of 5120 in float32, in any order; then one rounding of at most 11.
        outputs[f"{name} y"] = (y, 2 * u * 11 + 5120 * 2.0**-24)
        outputs[f"{name} x"] = (x.grad, 2 * u * 6 + 5120 * 2.0**-24)
        outputs[f"{name} scale"] = (scale.grad, 4 * u * 8 + 5120 * 2.0**-24)
    return outputs


MISSING = ("is not registered", "has no attribute", "No module named", "not compiled", "NotFound")


def compute(operator: str, dtype: str, function):
    """Return a case's entry of the output."""
    entry = {"operator": operator, "dtype": dtype, "state": "computed", "outputs": {}}
    try:
        for name, (value, allowed) in function(dtype).items():
            kind = "float32" if value.dtype in (paddle.float16, paddle.bfloat16) else None
            data = (value.cast(kind) if kind else value).cpu().numpy().astype("float64")
            entry["outputs"][name] = {
                "data": base64.b64encode(zlib.compress(data.tobytes())).decode(),
                "shape": list(data.shape),
                "allowed": allowed,
            }
    except Exception as error:
        text = str(error)
        entry["state"] = "missing" if any(word in text for word in MISSING) else "failed"
        lines = [line for line in text.splitlines() if line.strip()]
        entry["message"] = lines[-1].strip() if lines else traceback.format_exc().splitlines()[-1]
    return entry


def main() -> None:
    paddle.set_device(DEVICE)
    if sys.argv[3:]:
        runpy.run_path(sys.argv[3])[sys.argv[4]]()
    prefixes = tuple(sys.argv[5:]) or ("",)
    entries = {name: compute(*c) for name, c in CASES.items() if name.startswith(prefixes)}
    Path(OUTPUT).write_text(json.dumps(entries), encoding="utf-8")


main()
