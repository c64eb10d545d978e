"""Compute every operator for the CPU and compare it with NumPy: ``python cases.py FOLDER``.

FOLDER has the operators, as /opt/cpu-operators. Prints a JSON object with an entry for each
case: null, or what went wrong. Tolerances are derived: an operator works in float32 (unit
roundoff 2**-24) on inputs that its type holds exactly, and rounds once.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import traceback
from pathlib import Path

FOLDER = Path(sys.argv[1])
os.environ["CUSTOM_DEVICE_ROOT"] = str(FOLDER / "kernels")
os.environ["GLOG_MINLOGLEVEL"] = "2"
sys.path.insert(0, str(FOLDER / "site"))

import fused_ln  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402
import paddle.incubate.nn.functional as F  # noqa: E402
import paddlenlp_ops as ops  # noqa: E402

FLOATS = ("float32", "float16", "bfloat16")
# Half a unit in the last place, relative to the value.
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
U32 = 2.0**-24


def rounded(values, dtype: str) -> np.ndarray:
    """Return values as ``dtype`` holds them, in float32: to the nearest, ties to even."""
    values = np.asarray(values, "float32")
    if dtype == "float16":
        return values.astype("float16").astype("float32")
    if dtype == "bfloat16":
        bits = values.view("uint32")
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return bits.view("float32")
    return values


def tensor(values, dtype: str):
    """Return a tensor; ``values`` must be what the type holds."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, "float32").view("uint32") >> 16
        return paddle.to_tensor(bits.astype("uint16"))
    return paddle.to_tensor(np.ascontiguousarray(values).astype(dtype))


def array(x) -> np.ndarray:
    """Return a tensor's values, floats as float64."""
    values = x.numpy()
    if values.dtype == np.uint16:
        values = (values.astype("uint32") << 16).view("float32")
    return values.astype("float64") if values.dtype.kind == "f" else values


def ints(values, dtype: str = "int32"):
    return paddle.to_tensor(np.asarray(values, dtype))


def random(rng, shape, dtype: str, scale: float = 1.0) -> np.ndarray:
    return rounded(rng.standard_normal(shape) * scale, dtype)


def close(got, want, dtype: str, error=0.0) -> None:
    """Compare with what is exact: ``error`` is that of float32, before the one rounding."""
    got, want = np.asarray(got, "float64"), np.asarray(want, "float64")
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    allowed = ROUNDOFF[dtype] * (np.abs(want) + error) + SMALLEST[dtype] + error
    worst = np.abs(got - want) / allowed
    index = np.unravel_index(np.argmax(np.where(np.isnan(worst), np.inf, worst)), worst.shape)
    assert worst[index] <= 1, (
        f"{dtype}{list(index)}: got {got[index]}, expected {want[index]}"
        f" ± {np.broadcast_to(allowed, worst.shape)[index]}"
    )


def same(got, want) -> None:
    got = array(got) if isinstance(got, paddle.Tensor) else np.asarray(got)
    want = np.asarray(want)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    assert (got == want).all(), f"got {got.tolist()}, expected {want.tolist()}"


def half(values, kind: int) -> np.ndarray:
    """Round halves to even (0) or away from zero (1)."""
    return np.rint(values) if kind == 0 else np.trunc(values + np.copysign(0.5, values))


def quantized(got, values, scale: float, error=0.0) -> None:
    """Compare int8 with round(127 * scale * values), clamped, where no half is near."""
    got = array(got).astype("float64")
    exact = np.clip(127 * scale * np.asarray(values, "float64"), -127, 127)
    slack = 127 * scale * error + np.abs(exact) * 4 * U32
    assert got.shape == exact.shape
    assert (np.abs(got - exact) <= 0.5 + slack).all(), np.abs(got - exact).max()


def refuses(words: str, function, *arguments, **options) -> None:
    """The call must fail with a message that holds these words."""
    try:
        function(*arguments, **options)
    except Exception as error:
        assert words in str(error), f"expected a message with {words!r}, got {error}"
        return
    raise AssertionError(f"no error, expected one with {words!r}")


# ------------------------------------------------------------------------- references


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(q, k, v, mask=None):
    """Return plain attention of [queries, D] over [keys, D] in float64, and its terms' size."""
    scores = q.astype("float64") @ k.T / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores + mask
    weights = softmax(scores)
    return weights @ v, weights @ np.abs(v)


def attention_error(q, k, keys: int, size, rotated: float = 0.0):
    """Return the float32 error of attention: scores to D roundings, then a sum of the keys.

    ``rotated`` is the roundoff of queries and keys that were rotated, and rounded again after that.
    """
    d = q.shape[-1]
    largest = (np.abs(q).astype("float64") @ np.abs(k).T).max() / math.sqrt(d)
    score = largest * ((d + 2) * U32 + 2 * rotated + rotated**2)
    return size * (2 * score + (keys + 8) * U32)


def table(length: int, head_dim: int, neox: bool):
    """Return cosines and sines [2, 1, length, 1, head_dim] of a block attention's table."""
    pairs = head_dim // 2
    angles = np.outer(np.arange(length), 10000.0 ** (-np.arange(pairs) / pairs))
    angles = np.concatenate([angles, angles], 1) if neox else np.repeat(angles, 2, 1)
    return np.stack([np.cos(angles), np.sin(angles)]).astype("float32")[:, None, :, None, :]


def rotate(x, cosines, sines, neox: bool):
    """Rotate [..., head_dim] in float32 by one position's row."""
    turned = np.empty_like(x)
    if neox:
        h = x.shape[-1] // 2
        turned[..., :h], turned[..., h:] = -x[..., h:], x[..., :h]
    else:
        turned[..., 0::2], turned[..., 1::2] = -x[..., 1::2], x[..., 0::2]
    return x * cosines + turned * sines


# ----------------------------------------------------------------------------- kernels


def case_matmul_int8():
    rng = np.random.default_rng(1)
    for m, k, n in ((1, 1100, 130), (3, 64, 5), (9, 300, 257)):
        x, y = (rng.integers(-128, 128, s).astype("int8") for s in ((m, k), (k, n)))
        want = x.astype("int64") @ y.astype("int64")
        for got in (
            paddle.matmul(paddle.to_tensor(x), paddle.to_tensor(y)),
            paddle.matmul(paddle.to_tensor(x), paddle.to_tensor(y.T.copy()), False, True),
        ):
            assert got.dtype == paddle.int32
            same(got, want)
    extreme = paddle.full([2, 14000], -128, "int8")
    same(paddle.matmul(extreme, extreme, False, True), np.full((2, 2), 14000 * 128 * 128))


def case_matmul_float16():
    rng = np.random.default_rng(2)
    for dtype in FLOATS[1:]:
        for shape, (k, n) in (((1,), (700, 130)), ((2, 3), (64, 257)), ((5,), (300, 33))):
            x, y = random(rng, (*shape, k), dtype), random(rng, (k, n), dtype)
            want = x.astype("float64") @ y
            error = k * U32 * (np.abs(x).astype("float64") @ np.abs(y))
            close(array(paddle.matmul(tensor(x, dtype), tensor(y, dtype))), want, dtype, error)
            got = paddle.matmul(tensor(x, dtype), tensor(y.T, dtype), False, True)
            close(array(got), want, dtype, error)
        x, y = random(rng, (2, 3, 4, 40), dtype), random(rng, (2, 3, 40, 6), dtype)
        error = 40 * U32 * (np.abs(x).astype("float64") @ np.abs(y))
        got = paddle.matmul(tensor(x, dtype), tensor(y, dtype))
        close(array(got), x.astype("float64") @ y, dtype, error)
        refuses("broadcast", paddle.matmul, tensor(x, dtype), tensor(y[:1], dtype))


def case_float16_is_rounded_to_the_nearest():
    # A product with one: the store alone. Ties, subnormals, overflow, both zeros.
    values = np.array(
        [
            1 + 2 ** (-11),
            1 + 3 * 2 ** (-11),
            2 ** (-24),
            1.5 * 2 ** (-24),
            2 ** (-25),
            3 * 2 ** (-25),
            2 ** (-15),
            6e-05,
            65504,
            65519.9,
            -0.0,
            1e-30,
            -3.1e-06,
            2047.5,
            2048.5,
            1 / 3,
        ],
        "float32",
    )
    got = ops.dequant_int8(ints(np.ones((1, len(values)))), paddle.to_tensor(values), "float16")
    same(got, rounded(values, "float16")[None].astype("float64"))
    got = ops.dequant_int8(ints(np.ones((1, len(values)))), paddle.to_tensor(values), "bfloat16")
    same(got, rounded(values, "bfloat16")[None].astype("float64"))
    huge = paddle.full([20], 65520.0)
    got = ops.dequant_int8(ints([[1] * 20]), huge, "float16")
    same(got, np.full((1, 20), np.inf))


def case_fused_bias_act():
    rng = np.random.default_rng(3)

    def gelu(x):
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    activations = {"gelu": gelu, "geglu": gelu, "swiglu": lambda x: x / (1 + np.exp(-x))}
    for dtype in FLOATS:
        x, bias = random(rng, (5, 70), dtype), random(rng, 70, dtype)
        total = x.astype("float64") + bias
        for method, act in activations.items():
            is_gated = method != "gelu"
            want = act(total[:, :35]) * total[:, 35:] if is_gated else act(total)
            got = F.fused_bias_act(tensor(x, dtype), tensor(bias, dtype), act_method=method)
            size = np.abs(x).astype("float64") + np.abs(bias)
            size = size[:, :35] * (1 + size[:, 35:]) if is_gated else size
            close(array(got), want, dtype, 16 * U32 * size)
    refuses("act_method", F.fused_bias_act, tensor(x, dtype), None, act_method="tanh")


def case_fused_bias_act_int8():
    rng = np.random.default_rng(4)
    x = rng.integers(-5000, 5000, (4, 64)).astype("int32")
    scales = (rng.random(64) / 1000).astype("float32")
    shift, smooth = (rng.random((2, 32)) + 0.5).astype("float32")
    values = x * scales.astype("float64")
    gate = values[:, :32] / (1 + np.exp(-values[:, :32])) * values[:, 32:]
    scaled = paddle.to_tensor(scales)
    for compute, dtype in (("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")):
        got = F.fused_bias_act(
            ints(x), dequant_scales=scaled, act_method="swiglu", compute_dtype=compute
        )
        close(array(got), gate, dtype, 16 * U32 * np.abs(values[:, :32] * values[:, 32:]))
        both = [tensor(rounded(v, dtype), dtype) for v in (shift, smooth)]
        got = F.fused_bias_act(
            ints(x), None, scaled, *both, "swiglu", compute, 0.1, 1, 127.0, -127.0
        )
        want = (gate + rounded(shift, dtype)) * rounded(smooth, dtype).astype("float64")
        quantized(got, want, 0.1, 32 * U32 * (np.abs(gate) + 5))
    refuses("dequant_scales", F.fused_bias_act, ints(x), act_method="swiglu", compute_dtype="fp32")
    refuses(
        "quant_round_type", F.fused_bias_act, paddle.ones([1, 2]), None, None, None, None, "gelu",
        "default", 1.0, 2, 127.0, -127.0,
    )  # fmt: skip


def case_add_shape_and_tril_in_float16():
    rng = np.random.default_rng(21)
    for dtype in FLOATS[1:]:
        x, bias, y = (random(rng, shape, dtype) for shape in ((2, 3, 8), (8,), (2, 3, 8)))
        for other in (bias, y):
            total = x.astype("float64") + other
            close(array(paddle.add(tensor(x, dtype), tensor(other, dtype))), total, dtype)
        same(paddle.shape(tensor(x, dtype)), [2, 3, 8])
        same(paddle.tril(tensor(x, dtype), 1), np.tril(x, 1).astype("float64"))
        refuses("do not match", paddle.add, tensor(x, dtype), tensor(x[:, :1], dtype))


def case_norms_float16():
    rng = np.random.default_rng(5)
    for dtype in FLOATS[1:]:
        x, residual = random(rng, (3, 96), dtype), random(rng, (3, 96), dtype)
        weight, bias = random(rng, 96, dtype), random(rng, 96, dtype)
        total = x.astype("float64") + bias + residual
        rms = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-5) * weight
        error = 16 * U32 * (np.abs(total) + 4) * np.abs(weight)
        x, residual, bias = (tensor(v, dtype) for v in (x, residual, bias))
        scale = tensor(weight, dtype)
        got, added = F.fused_rms_norm(x, scale, None, 1e-5, 1, bias=bias, residual=residual)[:2]
        close(array(got), rms, dtype, error)
        close(array(added), total, dtype, 4 * U32 * (np.abs(total) + 4))
        options = {"quant_scale": 0.2, "quant_max_bound": 127.0, "quant_min_bound": -127.0}
        got = F.fused_rms_norm(x, scale, None, 1e-5, 1, bias=bias, residual=residual, **options)[0]
        quantized(got, rms, 0.2, error)
        sums = F.fused_layer_norm(x, None, None, 1e-5, begin_norm_axis=1, residual=residual)[0]
        close(array(sums), array(x) + array(residual), dtype, 4 * U32 * (np.abs(total) + 4))
        centred = array(x) - array(x).mean(-1, keepdims=True)
        want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        got = F.fused_layer_norm(x, paddle.ones([96]), paddle.zeros([96]), 1e-5, begin_norm_axis=1)[
            0
        ]
        close(array(got), want, dtype, 16 * U32 * (np.abs(want) + 4))


class Blocks:
    """A batch that block attention steps through, and what it must have seen."""

    def __init__(self, dtype, heads, kv_heads, head_dim, prompts, *, size=4, neox=True, steps=7,
                 rotary=True, int8="", pre=0, seed=0):  # fmt: skip
        self.dtype, self.neox, self.int8, self.size = dtype, neox, int8, size
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.rng = np.random.default_rng(seed)
        self.batch = len(prompts)
        longest = max(prompts) + steps + pre
        each = -(-longest // size)
        blocks = self.rng.permutation(self.batch * each + 2)[: self.batch * each]
        self.tables = blocks.reshape(self.batch, each).astype("int32")
        shape = [self.batch * each + 2, kv_heads, size, head_dim]
        self.caches = [
            paddle.full(shape, 77, "uint8") if int8 else tensor(np.full(shape, 9.0), dtype)
            for _ in range(2)
        ]
        self.rope = table(longest, head_dim, neox) if rotary else None
        self.scales = None
        if int8:
            shape = [self.batch, kv_heads] if int8 == "dynamic" else [kv_heads]
            quant = paddle.full(shape, 0.0 if int8 == "dynamic" else 30.0)
            dequant = paddle.full(shape, 0.0 if int8 == "dynamic" else 1 / 30.0)
            self.scales = [quant, quant.clone(), dequant, dequant.clone()]
        self.pre = None
        if pre:
            self.pre = random(self.rng, (2, self.batch, kv_heads, pre, head_dim), dtype)
        self.pre_length = pre
        self.past = [0] * self.batch

    def step(self, lengths, *, is_prompt, mask=None, **changed):
        """Run the operator on new random rows; return its output and the rows per sequence."""
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        rows = [random(self.rng, (n, width), self.dtype) for n in lengths]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype("int32")
        encoder = [n if is_prompt else 0 for n in lengths]
        decoder = [
            0 if is_prompt or n == 0 else p for n, p in zip(lengths, self.past, strict=False)
        ]
        arguments = {
            "qkv": tensor(np.concatenate(rows), self.dtype),
            "key_cache": self.caches[0],
            "value_cache": self.caches[1],
            "seq_lens_encoder": ints(encoder).reshape([-1, 1]),
            "seq_lens_decoder": ints(decoder).reshape([-1, 1]),
            "seq_lens_this_time": ints(lengths).reshape([-1, 1]),
            "padding_offsets": ints(np.zeros(sum(lengths))),
            "cum_offsets": ints(np.zeros(self.batch)),
            "cu_seqlens_q": ints(starts),
            "cu_seqlens_k": ints(starts),
            "block_tables": ints(self.tables),
            "rope_emb": None if self.rope is None else paddle.to_tensor(self.rope),
            "mask": mask,
            "max_seq_len": max(lengths),
            "block_size": self.size,
            "use_neox_style": self.neox,
            "use_dynamic_cachekv_quant": self.int8 == "dynamic",
            "quant_round_type": 1,
        }
        if self.pre is not None:
            arguments["pre_key_cache"], arguments["pre_value_cache"] = (
                tensor(v, self.dtype) for v in self.pre
            )
        if self.scales:
            names = ("k_quant", "v_quant", "k_dequant", "v_dequant")
            arguments |= {f"cache_{n}_scales": s for n, s in zip(names, self.scales, strict=False)}
        out = F.block_multihead_attention(**{**arguments, **changed})[0]
        split = []
        for b, own in enumerate(rows):
            heads = own.reshape(len(own), self.heads + 2 * self.kv_heads, self.head_dim).copy()
            turned = self.heads + self.kv_heads
            if self.rope is not None:
                for t in range(len(own)):
                    cosines, sines = self.rope[:, 0, self.past[b] + t, 0]
                    heads[t, :turned] = rotate(heads[t, :turned], cosines, sines, self.neox)
            split.append(rounded(heads, self.dtype))
        before = list(self.past)
        self.past = [p + n for p, n in zip(self.past, lengths, strict=False)]
        return out, split, starts, before

    def cached(self, kind: int, b: int, head: int, length: int):
        """Return what the cache holds of a sequence, as floats."""
        blocks = array(self.caches[kind])[self.tables[b], head].reshape(-1, self.head_dim)[:length]
        if not self.int8:
            return blocks
        index = (b, head) if self.int8 == "dynamic" else (head,)
        return (blocks.astype("float64") - 128) * array(self.scales[2 + kind])[index]

    def check(self, out, split, starts, before, *, is_prompt, mask=None):
        """Compare a step's output with plain attention over the whole history."""
        got = array(out).reshape(-1, self.heads, self.head_dim)
        turned = ROUNDOFF[self.dtype] if self.rope is not None else 0.0
        for b, rows in enumerate(split):
            pre, past, n = self.pre_length, before[b], len(rows)
            for head in range(self.heads):
                kv = head // (self.heads // self.kv_heads)
                own = [rows[:, self.heads + o + kv] for o in (0, self.kv_heads)]
                if is_prompt and self.pre is not None:
                    old = [self.pre[kind][b, kv] for kind in (0, 1)]
                else:
                    old = [self.cached(kind, b, kv, pre + past) for kind in (0, 1)]
                k, v = (np.concatenate([o, w]) for o, w in zip(old, own, strict=False))
                for t in range(n):
                    length = len(k) if mask is not None else pre + past + t + 1
                    extra = None if mask is None else mask[b, 0, t, :length]
                    q = rows[t : t + 1, head]
                    want, size = attention(q, k[:length], v[:length], extra)
                    error = attention_error(q, k[:length], length, size, turned)
                    close(got[starts[b] + t, head], want[0], self.dtype, error[0])
                for kind, values in enumerate(own):
                    if n:
                        self._check_cache(kind, b, kv, values, pre + past)

    def _check_cache(self, kind, b, head, values, first):
        stored = self.cached(kind, b, head, first + len(values))[first:]
        turned = 2 * ROUNDOFF[self.dtype] if self.rope is not None else 0.0
        allowed = turned * np.abs(values).max() + 1e-30
        if self.int8:
            index = (b, head) if self.int8 == "dynamic" else (head,)
            step = float(array(self.scales[2 + kind])[index])
            values = np.clip(values, -127 * step, 127 * step)
            allowed = step / 2 * (1 + 1e-4) + allowed
        assert (np.abs(stored - values) <= allowed).all(), "the cache holds other values"

    def run(self, prompts, steps=7):
        step = self.step(prompts, is_prompt=True)
        self.check(*step, is_prompt=True)
        for i in range(steps):
            # The second row has ended after three steps, and has no more tokens.
            lengths = [0 if b == 1 and i >= 3 else 1 for b in range(self.batch)]
            self.check(*self.step(lengths, is_prompt=False), is_prompt=False)


def case_block_attention_across_steps_and_blocks():
    for dtype in FLOATS:
        for heads, kv_heads, head_dim in ((4, 2, 64), (2, 2, 128), (4, 1, 16)):
            for neox in (True, False):
                prompts = [5, 1, 9]
                Blocks(dtype, heads, kv_heads, head_dim, prompts, neox=neox).run(prompts)
    Blocks("float32", 4, 2, 64, [130], size=64, seed=3).run([130])


def case_block_attention_prompt_is_causal():
    qkv = random(np.random.default_rng(7), (8, 6 * 64), "float32")
    outputs = []
    for _ in range(2):
        blocks = Blocks("float32", 2, 2, 64, [8], rotary=False)
        outputs.append(array(blocks.step([8], is_prompt=True, qkv=tensor(qkv, "float32"))[0]))
        qkv[-1] += 5  # another last token, which no other may see
    same(outputs[0][:-1], outputs[1][:-1])
    assert (outputs[0][-1] != outputs[1][-1]).any()


def case_block_attention_int8_cache():
    for dtype in FLOATS:
        for int8 in ("static", "dynamic"):
            prompts = [5, 1, 9]
            Blocks(dtype, 4, 2, 64, prompts, int8=int8).run(prompts)
    blocks = Blocks("float32", 2, 2, 16, [3], int8="static")
    none = {f"cache_{n}_scales": None for n in ("k_quant", "v_quant", "k_dequant", "v_dequant")}
    refuses("int8 cache requires", blocks.step, [3], is_prompt=True, **none)


def case_block_attention_pre_caches():
    for dtype in FLOATS:
        for int8 in ("", "dynamic"):
            prompts = [5, 1, 9]
            Blocks(dtype, 4, 2, 64, prompts, pre=3, int8=int8).run(prompts)


def case_block_attention_mask():
    prompts = [5, 2]
    mask = np.where(np.random.default_rng(6).random((2, 1, 5, 5)) < 0.3, -1e4, 0).astype("float32")
    mask[..., 0] = 0
    blocks = Blocks("float32", 4, 2, 64, prompts)
    step = blocks.step(prompts, is_prompt=True, mask=paddle.to_tensor(mask))
    blocks.check(*step, is_prompt=True, mask=mask)


def case_block_attention_quantized_input_and_output():
    rng = np.random.default_rng(8)
    blocks = Blocks("float32", 4, 2, 64, [6], rotary=False)
    x = rng.integers(-9000, 9000, (6, 8 * 64)).astype("int32")
    scales = (rng.random(8 * 64) / 4000).astype("float32")
    options = {"qkv": ints(x), "qkv_out_scale": paddle.to_tensor(scales), "compute_dtype": "fp32"}
    want = array(blocks.step([6], is_prompt=True, **options)[0])
    rows = (x * scales).astype("float32").reshape(6, 8, 64)
    blocks.check(paddle.to_tensor(want), [rows], [0, 6], [0], is_prompt=True)
    again = Blocks("float32", 4, 2, 64, [6], rotary=False)
    got = again.step([6], is_prompt=True, **options, out_scale=0.3)[0]
    quantized(got, want, 0.3, 1e-6)
    half_caches = Blocks("float16", 4, 2, 64, [6], rotary=False)
    options["compute_dtype"] = "fp16"
    out = half_caches.step([6], is_prompt=True, **options)[0]
    assert out.dtype == paddle.float16
    half_caches.check(out, [rounded(rows, "float16")], [0, 6], [0], is_prompt=True)


def case_block_attention_refuses():
    def attempt(words, **changed):
        blocks = Blocks("float32", 4, 2, 64, [5, 1])
        refuses(words, blocks.step, [5, 1], is_prompt=True, **changed)

    attempt("names block 99", block_tables=ints([[99, 1, 2], [3, 4, 5]]))
    attempt("names block -1", block_tables=ints([[0, -1, 2], [3, 4, 5]]))
    attempt("value_cache", value_cache=paddle.zeros([8, 2, 4, 32]))
    attempt("do not fit in 1 blocks", block_tables=ints([[0], [1]]))
    attempt("has 6 rows", cu_seqlens_q=ints([0, 6, 7]))
    attempt("block_size is 8", block_size=8)
    attempt("positions", rope_emb=paddle.to_tensor(table(4, 64, True)))
    halves = paddle.zeros([8, 2, 4, 64], "float16")
    attempt("same type", key_cache=halves, value_cache=halves)
    attempt("do not cover", mask=paddle.zeros([2, 1, 3, 3]))


def case_blha_get_max_len():
    got = F.blha_get_max_len(ints([[3], [0], [9]]), ints([[0], [12], [4]]), paddle.zeros([2]))
    same(got[0], [3])
    same(got[1], [12])


def dense_cache(keys, values, length: int, dtype: str) -> np.ndarray:
    """Return [2, B, KH, length, D] of keys and values [B, KH, n, D]: keys in groups."""
    b, h, n, d = keys.shape
    group = 4 if dtype == "float32" else 8
    k = np.zeros((b, h, d // group, length, group), "float32")
    k[:, :, :, :n] = keys.reshape(b, h, n, d // group, group).transpose(0, 1, 3, 2, 4)
    v = np.zeros((b, h, length, d), "float32")
    v[:, :, :n] = values
    return np.stack([k.reshape(b, h, length, d), v])


def case_masked_attention_across_steps():
    rng = np.random.default_rng(9)
    for dtype in FLOATS:
        for heads, kv_heads, d in ((4, 2, 64), (2, 2, 128)):
            for neox in (True, False):
                past = [5, 0, 9]  # the second row is finished
                width = (heads + 2 * kv_heads) * d
                k, v = (random(rng, (3, kv_heads, 9, d), dtype) for _ in range(2))
                cache = tensor(dense_cache(k, v, 16, dtype), dtype)
                keys = [[list(k[b, h, : past[b]]) for h in range(kv_heads)] for b in range(3)]
                values = [[list(v[b, h, : past[b]]) for h in range(kv_heads)] for b in range(3)]
                rope = table(16, d, neox)[:, 0, :, 0]
                for step in range(4):
                    x = random(rng, (3, width), dtype)
                    lengths = [p + step if p else 0 for p in past]
                    rows = rope[:, lengths].reshape(2, 3, 1, 1, d)
                    out = F.masked_multihead_attention(
                        tensor(x, dtype), cache, sequence_lengths=ints(lengths).reshape([3, 1]),
                        rotary_tensor=paddle.to_tensor(rows), rotary_emb_dims=1,
                        use_neox_rotary_style=neox,
                    )[0]  # fmt: skip
                    got = array(out).reshape(3, heads, d)
                    same(got[1], np.zeros((heads, d)))
                    for b in (0, 2):
                        own = x[b].reshape(-1, d).copy()
                        turned = heads + kv_heads
                        own[:turned] = rotate(own[:turned], *rope[:, lengths[b]], neox)
                        own = rounded(own, dtype)
                        for h in range(kv_heads):
                            keys[b][h].append(own[heads + h])
                            values[b][h].append(own[turned + h])
                        for h in range(heads):
                            kk, vv = (
                                np.array(s[b][h // (heads // kv_heads)]) for s in (keys, values)
                            )
                            want, size = attention(own[h : h + 1], kk, vv)
                            bound = attention_error(
                                own[h : h + 1], kk, len(kk), size, 2 * ROUNDOFF[dtype]
                            )
                            close(got[b, h], want[0], dtype, bound[0])


def case_masked_attention_mask_and_int8():
    rng = np.random.default_rng(10)
    k, v = (random(rng, (2, 2, 6, 64), "float32") for _ in range(2))
    mask = np.where(rng.random((2, 1, 1, 7)) < 0.4, -1e4, 0).astype("float32")
    x = rng.integers(-9000, 9000, (2, 6 * 64)).astype("int32")
    scales = (rng.random(6 * 64) / 4000).astype("float32")
    rows = (x * scales).astype("float32").reshape(2, 6, 64)
    want = np.empty((2, 2, 64))
    for b in range(2):
        for h in range(2):
            kk, vv = (
                np.concatenate([s[b, h], rows[b, 2 + 2 * o + h][None]])
                for o, s in enumerate((k, v))
            )
            want[b, h] = attention(rows[b, h][None], kk, vv, mask[b, 0])[0]
    options = {"src_mask": paddle.to_tensor(mask), "qkv_out_scale": paddle.to_tensor(scales),
               "compute_dtype": "fp32"}  # fmt: skip

    def run(**more):
        cache = paddle.to_tensor(dense_cache(k, v, 8, "float32"))
        return F.masked_multihead_attention(ints(x), cache, **{**options, **more})[0]

    close(array(run()), want.reshape(2, -1), "float32", 1e-5)
    got = run(out_scale=0.4, quant_round_type=1, quant_max_bound=127.0, quant_min_bound=-127.0)
    quantized(got, want.reshape(2, -1), 0.4, 1e-5)
    refuses("does not fit", run, sequence_lengths=ints([[8], [1]]))
    refuses("qkv_out_scale", run, qkv_out_scale=None)


def case_variable_length_attention():
    rng = np.random.default_rng(11)
    for dtype in FLOATS:
        for heads, kv_heads, d, pre, causal in (
            (4, 2, 64, 0, True),
            (2, 2, 128, 3, True),
            (4, 1, 16, 0, False),
        ):
            q = random(rng, (3, heads, 7, d), dtype)
            k, v = (random(rng, (3, kv_heads, 7 + pre, d), dtype) for _ in range(2))
            lengths = [7, 1, 4]
            mask = random(rng, (3, 1, 7, 7 + pre), dtype)
            out = F.variable_length_memory_efficient_attention(
                tensor(q, dtype), tensor(k, dtype), tensor(v, dtype),
                ints(lengths).reshape([3, 1]), ints([n + pre for n in lengths]).reshape([3, 1]),
                mask=tensor(mask, dtype), scale=d**-0.5, causal=causal, pre_cache_length=pre,
            )  # fmt: skip
            got = array(out)
            for b, n in enumerate(lengths):
                same(got[b, :, n:], np.zeros((heads, 7 - n, d)))
                for h in range(heads):
                    kk, vv = (s[b, h // (heads // kv_heads)] for s in (k, v))
                    for i in range(n):
                        seen = min(n + pre, i + 1 + pre) if causal else n + pre
                        want, size = attention(
                            q[b, h, i : i + 1], kk[:seen], vv[:seen], mask[b, 0, i, :seen]
                        )
                        bound = attention_error(q[b, h, i : i + 1], kk[:seen], seen, size)
                        close(got[b, h, i], want[0], dtype, bound[0] + 8 * U32 * size[0])


def case_top_p_sampling():
    probabilities = np.array([[0.1, 0.5, 0.15, 0.25], [0.7, 0.1, 0.1, 0.1]], "float32")
    for dtype in FLOATS:
        x = tensor(rounded(probabilities, dtype), dtype)
        score, ids = paddle.tensor.top_p_sampling(x, tensor(np.zeros(2), dtype))
        same(ids, [[1], [0]])
        same(score, rounded([[0.5], [0.7]], dtype).astype("float64"))
    x, top = paddle.to_tensor(probabilities), paddle.to_tensor([0.7, 0.5])
    paddle.seed(3)
    drawn = [array(paddle.tensor.top_p_sampling(x, top)[1])[:, 0].tolist() for _ in range(600)]
    assert {d[0] for d in drawn} == {1, 3} and {d[1] for d in drawn} == {0}, drawn[:5]
    share = sum(d[0] == 1 for d in drawn) / 600
    assert abs(share - 2 / 3) < 5 * math.sqrt(2 / 9 / 600), share  # five standard deviations
    paddle.seed(3)
    same([array(paddle.tensor.top_p_sampling(x, top)[1])[:, 0].tolist() for _ in range(600)], drawn)
    seeds = ints([[5], [6]], "int64")
    one, two = (paddle.tensor.top_p_sampling(x, top, topp_seed=seeds)[1] for _ in range(2))
    same(one, array(two))
    every = {
        int(paddle.tensor.top_p_sampling(x, top, mode="non-truncated")[1][0, 0]) for _ in range(300)
    }
    assert every == {0, 1, 2, 3}, every
    least = paddle.to_tensor([0.3, 0.3])
    many = paddle.to_tensor([1.0, 1.0])
    limited = {
        int(paddle.tensor.top_p_sampling(x, many, threshold=least)[1][0, 0]) for _ in range(99)
    }
    assert limited == {1}, limited
    _, _, scores, tops = paddle.tensor.top_p_sampling(x, top, k=2, return_top=True)
    same(tops[0], [1, 3])
    same(scores[0], [0.5, 0.25])
    refuses(
        "no probabilities", paddle.tensor.top_p_sampling, paddle.zeros([1, 3]), paddle.ones([1])
    )


# ----------------------------------------------------------------------- paddlenlp_ops


def padded():
    lengths, length = [3, 0, 5], 5
    ids = np.arange(15).reshape(3, 5).astype("int64")
    ends = np.cumsum([length - n for n in lengths]).astype("int32")
    tokens = np.concatenate([ids[b, :n] for b, n in enumerate(lengths)])
    return lengths, ids, ends, tokens


def case_get_padding_offset():
    lengths, ids, ends, tokens = padded()
    inputs = [ints(ids, "int64"), ints(ends), ints([8], "int64")]
    before = [0, 2, 7]
    offsets = [0] * 3 + [7] * 5
    got = ops.get_padding_offset_v2(*inputs, ints(lengths).reshape([3, 1]))
    for value, want in zip(
        got, (tokens, before, offsets, [0, 3, 3, 8], [0, 3, 3, 8]), strict=False
    ):
        same(value, want)
    for value, want in zip(
        ops.get_padding_offset(*inputs, ints(lengths)), (tokens, before, offsets), strict=False
    ):
        same(value, want)
    refuses(
        "token_num: expected 8, got 7",
        ops.get_padding_offset,
        *inputs[:2],
        ints([7], "int64"),
        ints(lengths),
    )
    refuses("has 6 tokens of 5", ops.get_padding_offset, *inputs, ints([6, 0, 2]))
    refuses(
        "cum_offsets[1]",
        ops.get_padding_offset,
        inputs[0],
        ints([2, 6, 7]),
        inputs[2],
        ints(lengths),
    )


def case_rebuild_padding():
    rng = np.random.default_rng(12)
    lengths, ids, _, _tokens = padded()
    before = ints([0, 2, 7])
    for dtype in FLOATS:
        x = random(rng, (8, 6), dtype)
        want = np.stack([x[2], np.zeros(6), x[7]])
        got = ops.rebuild_padding(tensor(x, dtype), before, ints(lengths), ints(ids, "int64"))
        same(got, want)
        got = ops.rebuild_padding_v2(tensor(x, dtype), before, ints([0, 0, 0]), ints(lengths), 5)
        same(got, want)
    # Decoding: one token each, the second row finished.
    x = random(rng, (2, 6), "float32")
    got = ops.rebuild_padding_v2(
        tensor(x, "float32"), ints([0, 0, 1]), ints([4, 0, 6]), ints([0, 0, 0]), 1
    )
    same(got, np.stack([x[0], np.zeros(6), x[1]]))
    refuses(
        "of 2", ops.rebuild_padding_v2, tensor(x, "float32"), ints([0]), ints([0]), ints([4]), 5
    )


def case_qkv_transpose_split_and_back():
    rng = np.random.default_rng(13)
    lengths, ids, _, _ = padded()
    offsets = ints([0] * 3 + [7] * 5)
    for dtype in FLOATS:
        x = random(rng, (8, (4 + 2 * 2) * 8), dtype)
        q, k, v = ops.qkv_transpose_split(
            tensor(x, dtype), offsets, ints(lengths), ints(ids, "int64"), 4, 8
        )
        want = np.zeros((3, 5, 8, 8))
        for row, (b, i) in enumerate([(0, i) for i in range(3)] + [(2, i) for i in range(5)]):
            want[b, i] = x[row].reshape(8, 8)
        for got, heads in ((q, slice(0, 4)), (k, slice(4, 6)), (v, slice(6, 8))):
            same(got, want[:, :, heads].transpose(0, 2, 1, 3))
        same(ops.transpose_remove_padding(q, ints(lengths), offsets), x[:, :32].astype("float64"))
    refuses(
        "not 3 query heads",
        ops.qkv_transpose_split,
        tensor(x[:, :40], dtype),
        offsets,
        ints(lengths),
        ints(ids, "int64"),
        3,
        16,
    )
    refuses(
        "puts row",
        ops.qkv_transpose_split,
        tensor(x, dtype),
        ints([0] * 7 + [9]),
        ints(lengths),
        ints(ids, "int64"),
        4,
        8,
    )


def case_token_penalty():
    rng = np.random.default_rng(14)
    pre = [[4, 4, 2, -1, 7], [1, -1, -1, -1, -1], [5, 5, 5, 5, 5]]
    for dtype in FLOATS:
        logits = random(rng, (3, 9), dtype, 3.0)
        factors = rounded([1.5, 2.0, 1.25], dtype)
        often, present = rounded([0.5, 0.25, 1.0], dtype), rounded([0.125, 0.5, 0.75], dtype)
        temperature = np.array([0.5, 2.0, 1.0], "float32")
        want = logits.astype("float64")
        want[1, [0, 3]] = -1e4 if dtype == "float16" else -1e10  # shorter than its minimum
        for b, counts in enumerate(({4: 2, 2: 1}, {1: 1}, {})):  # the third is not counted
            for token, times in counts.items():
                x = want[b, token]
                want[b, token] = (
                    (x * factors[b] if x < 0 else x / factors[b]) - times * often[b] - present[b]
                )
        inputs = [ints(pre, "int64"), tensor(logits, dtype)]
        inputs += [tensor(v, dtype) for v in (factors, often, present)]
        bounds = [ints([3, 1, -1], "int64"), ints([2, 5, 9], "int64"), ints([0, 3], "int64")]
        error = 8 * U32 * (np.abs(want) + 4)
        close(array(ops.get_token_penalty_multi_scores(*inputs, *bounds)), want, dtype, error)
        same(inputs[1], logits.astype("float64"))  # not in place
        warm = want / temperature[:, None]
        warm[:, 8] = -np.inf if dtype == "float16" else -1e10
        ops.get_token_penalty_multi_scores_v2(
            *inputs, paddle.to_tensor(temperature), ints([8, -1, 99], "int64"), *bounds
        )
        got = array(inputs[1])
        assert (got[:, 8] == rounded(warm[:, 8], dtype)).all()
        close(got[:, :8], warm[:, :8], dtype, 2 * error[:, :8] / temperature[:, None])
    refuses(
        "token 9 of 9",
        ops.get_token_penalty_multi_scores,
        ints([[9, -1]] * 3, "int64"),
        *inputs[1:],
        *bounds,
    )
    refuses(
        "must be above 0",
        ops.get_token_penalty_multi_scores_v2,
        *inputs,
        paddle.zeros([3]),
        ints([-1], "int64"),
        *bounds,
    )
    refuses(
        "scores",
        ops.get_token_penalty_multi_scores,
        *inputs[:2],
        paddle.ones([3]),
        *inputs[3:],
        *bounds,
    )


def case_set_value():
    pre = ints(np.full((4, 6), -1), "int64")
    stops = paddle.to_tensor([False, True, False, False])
    out = ops.set_value_by_flags_and_idx(
        pre, ints([7, 8, 9, 10], "int64"), ints([0, 1, 5, -1], "int64"), stops
    )
    want = np.full((4, 6), -1)
    want[0, 0], want[2, 5] = 7, 9
    same(pre, want)
    same(out, [False, True, False, False])
    step = ints([6, 0, 0, 0], "int64")
    refuses(
        "step_idx[0] is 6",
        ops.set_value_by_flags_and_idx,
        pre,
        ints([7, 8, 9, 10], "int64"),
        step,
        stops,
    )

    ids = ints(np.arange(12).reshape(4, 3), "int64")
    encoder, decoder = ints([2, 3, 0, 0]), ints([0, 0, 4, 0])
    lengths, step = ints([2, 3, 1, 0]).reshape([4, 1]), ints([1, 1, 2, 3], "int64")
    ops.set_value_by_flags_and_idx_v2(pre, ids, lengths, encoder, decoder, step, stops)
    want[0, 1], want[2, 2] = 1, 6  # the prompt's last token, the token of the step
    same(pre, want)
    refuses(
        "seq_lens_encoder[0] is 4",
        ops.set_value_by_flags_and_idx_v2,
        pre,
        ids,
        lengths,
        ints([4, 0, 0, 0]),
        decoder,
        step,
        stops,
    )
    refuses(
        "step_idx[0] is 6",
        ops.set_value_by_flags_and_idx_v2,
        pre,
        ids,
        lengths,
        encoder,
        decoder,
        ints([6, 1, 1, 1], "int64"),
        stops,
    )


def case_set_stop_value():
    top, ends = ints([[5], [6], [2], [9]], "int64"), ints([2, 3], "int64")
    stops = paddle.to_tensor([[False], [True], [False], [True]])
    tokens, flags = ops.set_stop_value_multi_ends(top, stops, ends, 2)
    same(tokens, [[5], [2], [2], [2]])
    same(flags, [[False], [True], [True], [True]])
    refuses("mode must be 2", ops.set_stop_value_multi_ends, top, stops, ends, 0)
    following = ints([[0]] * 4, "int64")
    ops.set_stop_value_multi_ends_v2(top, stops, ints([3, 1, 1, 0]), ends, following)
    same(top, [[5], [2], [2], [-1]])
    same(following, [[5], [2], [2], [0]])
    same(stops, [[False], [True], [True], [True]])


def case_update_inputs():
    stops = paddle.to_tensor([False, True, True, False, True, True])
    go, nums = paddle.to_tensor([True]), ints([5], "int64")
    now, encoder, decoder = ints([3, 1, 1, 1]), ints([3, 0, 0, 0]), ints([0, 8, 9, 4])
    ids, following = ints(np.ones((4, 3)), "int64"), ints([[11], [12], [13], [14]], "int64")
    waits = paddle.to_tensor([False, False, True, False, False, False])
    ops.update_inputs(stops, go, now, encoder, decoder, ids, nums, following, waits)
    same(decoder, [3, 0, 0, 5])
    same(now, [1, 0, 0, 1])
    same(encoder, [0, 0, 0, 0])
    same(ids[:, 0], [11, 12, 13, 14])
    same(go, [True])  # three have stopped: one, and two after the batch
    ops.update_inputs(stops, go, now, encoder, decoder, ids, ints([3], "int64"), following, waits)
    same(go, [False])


def case_messages():
    x, go = ints([[4], [5], [6]], "int64"), paddle.to_tensor([True])
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        got = ints(np.zeros((514, 1)), "int64")

        def receive(folder, wait=False):
            os.environ["PADDLE_STACKS_QUEUE"] = folder
            ops.get_output(got, 0, wait)
            return array(got)[:5, 0].tolist()

        assert receive(one)[:2] == [-2, 0]
        for folder, first in ((one, 4), (other, 40), (one, 41)):
            os.environ["PADDLE_STACKS_QUEUE"] = folder
            x[0, 0] = first
            ops.save_output(x, go, 0)
        ops.save_output(x, go, 1)  # another rank sends nothing
        go[0] = False
        ops.save_output(x, go, 0)
        assert receive(one, True) == [1, 3, 4, 5, 6]  # in order, and of its own folder
        assert receive(one) == [1, 3, 41, 5, 6]
        assert receive(one) == [-1, 3, 41, 5, 6]
        assert receive(one)[:2] == [-2, 0]
        assert receive(other) == [1, 3, 40, 5, 6]
        ops.save_output(ints(np.ones((9, 1)), "int64"), go, 0)
        refuses("9 rows for 5", ops.get_output, ints(np.zeros((5, 1)), "int64"), 0, False)
        refuses("512 rows, got 513", ops.save_output, ints(np.ones((513, 1)), "int64"), go, 0)
        os.environ["PADDLE_STACKS_QUEUE"] = one + "/none"
        refuses("no queue for folder", ops.save_output, x, go, 0)
        remove_queues(one, other)


def remove_queues(*folders: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    for folder in folders:
        libc.msgctl(libc.msgget(libc.ftok(folder.encode(), 1), 0), 0, None)


def case_save_with_output():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/deep/er/out"
        x = ints([[1], [2]], "int64")
        same(ops.save_with_output(x, ints([3]), ints([7], "int64"), path, 0), [[1], [2]])
        assert Path(f"{path}_rank_0_batch_3_step_7").read_bytes() == b"11" + array(x).tobytes()
        ops.save_with_output(paddle.ones([3]), ints([-1]), ints([-1], "int64"), path, -1)
        assert Path(path).read_bytes() == b"10" + np.ones(3, "float32").tobytes()
        Path(folder, "file").touch()
        refuses(
            "save_with_output",
            ops.save_with_output,
            x,
            ints([1]),
            ints([1], "int64"),
            f"{folder}/file/x",
            0,
        )


def case_rotary():
    rng = np.random.default_rng(15)
    positions = np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]])
    shape = paddle.ones([16])
    for neox in (True, False):
        full = table(16, 16, neox)[:, 0, :, 0]
        got = ops.fused_get_rotary_embedding(
            ints(np.ones((2, 3)), "int64"), ints(positions, "int64"), shape, 2, 10000.0, neox
        )
        want = full[:, positions[:, 2:]][:, :, None]
        # float32 powers: an angle is off by some roundings of the frequency.
        close(array(got), want, "float32", 16 * 4 * U32)
        for dtype in FLOATS:
            q, k = random(rng, (2, 4, 3, 16), dtype), random(rng, (2, 2, 3, 16), dtype)
            qt, kt = tensor(q, dtype), tensor(k, dtype)
            ops.encode_rotary_qk(qt, kt, got, ints([3, 2]), 1, neox)
            rope = array(got).astype("float32")
            for turned_tensor, x in ((qt, q), (kt, k)):
                turned = x.astype("float64").copy()
                for b, n in enumerate((3, 2)):  # the last token of the second row is padding
                    for i in range(n):
                        turned[b, :, i] = rotate(
                            turned[b, :, i],
                            rope[0, b, 0, i].astype("float64"),
                            rope[1, b, 0, i].astype("float64"),
                            neox,
                        )
                close(array(turned_tensor), turned, dtype, 4 * U32 * 8)
    refuses(
        "position_ids has 5",
        ops.fused_get_rotary_embedding,
        ints(np.ones((2, 3)), "int64"),
        ints(positions, "int64"),
        shape,
        3,
        1e4,
        True,
    )
    refuses("has 4 tokens of 3", ops.encode_rotary_qk, qt, kt, got, ints([4, 1]), 1, True)


def case_write_cache_kv():
    rng = np.random.default_rng(16)
    for dtype in FLOATS:
        k, v = (random(rng, (2, 2, 5, 16), dtype) for _ in range(2))
        cache = paddle.zeros([2, 3, 2, 8, 16], dtype)
        ops.write_cache_kv(tensor(k, dtype), tensor(v, dtype), cache, ints([5, 2]))
        k, v = k.copy(), v.copy()
        k[1, :, 2:] = v[1, :, 2:] = 0
        same(cache[:, :2], dense_cache(k, v, 8, dtype).astype("float64"))
        same(cache[:, 2], np.zeros((2, 2, 8, 16)))
        refuses(
            "has 6 tokens",
            ops.write_cache_kv,
            tensor(k, dtype),
            tensor(v, dtype),
            cache,
            ints([6, 1]),
        )
    refuses(
        "do not match",
        ops.write_cache_kv,
        paddle.ones([1, 3, 2, 16]),
        paddle.ones([1, 3, 2, 16]),
        paddle.zeros([2, 1, 2, 8, 16]),
        ints([1]),
    )


def case_write_int8_cache_kv():
    rng = np.random.default_rng(17)
    for dtype in FLOATS:
        k, v = (random(rng, (2, 2, 5, 16), dtype) for _ in range(2))
        v[0, 1] = 0  # a head of zeros has a scale too
        cache = paddle.zeros([2, 2, 2, 8, 16], "uint8")
        scales = [paddle.zeros([4]) for _ in range(4)]
        ops.write_int8_cache_kv(tensor(k, dtype), tensor(v, dtype), cache, *scales)
        for kind, x in enumerate((k, v)):
            largest = np.abs(x).max((2, 3)).reshape(-1)
            quant = np.float32(127) / np.where(largest == 0, 1, largest).astype("float32")
            same(scales[kind], quant.astype("float64"))
            same(scales[2 + kind], (np.float32(1) / quant).astype("float64"))
            scaled = x * quant.reshape(2, 2, 1, 1)
            want = np.clip(half(scaled, 1), -127, 127) + 128
            whole = dense_cache(want, want, 8, dtype)[kind]
            same(cache[kind], whole.astype("uint8"))


def case_quant_int8():
    ties = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, -127.5, 400, -400, 0]])
    for dtype in FLOATS:
        # max * scale is a power of two: products are exact, and ties stay ties.
        for kind in (0, 1):
            got = ops.quant_int8(tensor(ties, dtype), None, None, 1 / 64, kind, 64.0, -64.0)
            same(got, np.clip(half(rounded(ties, dtype), kind), -64, 64).astype("int8"))
        shift, smooth = np.full(12, 0.5), np.full(12, 2.0)
        got = ops.quant_int8(
            tensor(ties, dtype), tensor(shift, dtype), tensor(smooth, dtype), 1 / 64, 0, 64.0, -64.0
        )
        same(got, np.clip((rounded(ties, dtype) + 0.5) * 2, -64, 64).astype("int8"))
    refuses(
        "round_type", ops.quant_int8, tensor(ties, "float32"), None, None, 1.0, 3, 127.0, -127.0
    )
    refuses("bound", ops.quant_int8, tensor(ties, "float32"), None, None, 1.0, 0, 300.0, -300.0)
    refuses(
        "expected 12",
        ops.quant_int8,
        tensor(ties, "float32"),
        paddle.ones([3]),
        paddle.ones([3]),
        1.0,
        0,
        127.0,
        -127.0,
    )


def case_dequant_int8():
    rng = np.random.default_rng(18)
    x = rng.integers(-(2**20), 2**20, (5, 12)).astype("int32")
    scales = (rng.random(12) / 2**16).astype("float32")
    for dtype in FLOATS:
        got = ops.dequant_int8(ints(x), paddle.to_tensor(scales), dtype)
        close(array(got), x * scales.astype("float64"), dtype, U32 * np.abs(x * scales))
    refuses("dtype must be", ops.dequant_int8, ints(x), paddle.to_tensor(scales), "float64")
    refuses("expected 12 elements, got 3", ops.dequant_int8, ints(x), paddle.ones([3]), "float32")


class Step:
    """The state of step_paddle for rows of ten blocks of four tokens."""

    ORDER = (
        "stop_flags",
        "seq_lens_this_time",
        "ori_seq_lens_encoder",
        "seq_lens_encoder",
        "seq_lens_decoder",
        "block_tables",
        "encoder_block_lens",
        "is_block_step",
        "step_block_list",
        "step_lens",
        "recover_block_list",
        "recover_lens",
        "need_block_list",
        "need_block_len",
        "used_list_len",
        "free_list",
        "free_list_len",
        "input_ids",
        "pre_ids",
        "step_idx",
        "next_tokens",
    )

    def __init__(self, tables, encoder_blocks, used, decoder, free):
        rows = len(tables)
        full = np.full((rows, 10), -1)
        for row, blocks in zip(full, tables, strict=False):
            row[: len(blocks)] = blocks
        none = np.full(rows, -1)
        self.s = {
            "stop_flags": paddle.zeros([rows], "bool"),
            "is_block_step": paddle.zeros([rows], "bool"),
            "seq_lens_this_time": ints(np.ones(rows)),
            "seq_lens_encoder": ints(np.zeros(rows)),
            "ori_seq_lens_encoder": ints([4 * n for n in encoder_blocks]),
            "seq_lens_decoder": ints(decoder),
            "block_tables": ints(full),
            "encoder_block_lens": ints(encoder_blocks),
            "used_list_len": ints(used),
            "free_list": ints([*free, *[-1] * (20 - len(free))]),
            "free_list_len": ints([len(free)]),
            **{f"{kind}_block_list": ints(none) for kind in ("step", "recover", "need")},
            **{name: ints([0]) for name in ("step_lens", "recover_lens", "need_block_len")},
            "input_ids": ints(np.zeros((rows, 40)), "int64"),
            "pre_ids": ints(np.arange(rows * 40).reshape(rows, 40), "int64"),
            "step_idx": ints(np.full(rows, 3), "int64"),
            "next_tokens": ints(100 + np.arange(rows), "int64"),
        }  # fmt: skip

    def __getitem__(self, name):
        return array(self.s[name])

    def run(self):
        ops.step_paddle(*(self.s[name] for name in self.ORDER), 4, 2, 1)


def case_step_paddle():
    # A row at a block's edge gets the last free block; a row within a block gets none.
    step = Step([[0, 1], [2, 3]], [1, 1], [1, 1], [8, 6], [9, 8])
    step.run()
    same(step["block_tables"][:, :4], [[0, 1, 8, -1], [2, 3, -1, -1]])
    same(step["free_list_len"], [1])
    same(step["used_list_len"], [2, 1])

    # A finished row gives back what it used after its prompt.
    step = Step([[0, 1, 4], [2, 3]], [1, 1], [2, 1], [10, 6], [9])
    step.s["stop_flags"][0] = True
    step.run()
    same(step["free_list"][:3], [9, 1, 4])
    same(step["block_tables"][0, :3], [0, -1, -1])
    same(step["encoder_block_lens"], [0, 1])

    # Nothing is free: the row with the most blocks waits, and begins again with what it had.
    step = Step([[0, 1], [2, 3, 4, 5]], [1, 1], [1, 3], [8, 14], [])
    step.run()
    same(step["stop_flags"], [False, True])
    same(step["is_block_step"], [False, True])
    same(step["step_block_list"], [1, -1])
    same(step["seq_lens_decoder"], [8, 0])
    same(step["block_tables"][:, :4], [[0, 1, 5, -1], [2, -1, -1, -1]])
    same(step["free_list_len"], [2])
    step.s["stop_flags"][0] = True  # gives its two back: four, what the other needs
    step.run()
    same(step["is_block_step"], [False, False])
    same(step["stop_flags"], [True, False])
    same(step["used_list_len"], [0, 4])
    same(step["seq_lens_encoder"], [0, 7])
    same(step["seq_lens_this_time"][1:], [7])
    assert (step["block_tables"][1, 1:5] >= 0).all() and step["free_list_len"] == [0]
    # First token, what was generated (pre_ids from 1 on), and the token that comes next.
    same(step["input_ids"][1, :7], [1, 0, 0, 0, 41, 42, 101])
    same(step["recover_lens"], [0])

    step = Step([[0, 1]], [2], [0], [8], [])
    refuses("too few blocks", step.run)
    step = Step([[0, 1]], [1], [1], [40], [3])
    refuses("row 0 has 40 tokens", step.run)


def case_flash_attn_bwd():
    rng = np.random.default_rng(19)
    for dtype in FLOATS:
        q = random(rng, (2, 5, 4, 16), dtype)
        k, v = (random(rng, (2, 7, 2, 16), dtype) for _ in range(2))
        grad = random(rng, (2, 5, 4, 16), dtype)
        mask = random(rng, (2, 1, 5, 7), dtype)
        for causal in (True, False):
            x, y, z = (paddle.to_tensor(s, "float64", stop_gradient=False) for s in (q, k, v))
            extra = mask.astype("float64")
            if causal:
                extra = extra + np.where(np.tri(5, 7, 2), 0, -1e30)
            keys, values = (s.repeat_interleave(2, 2).transpose([0, 2, 3, 1]) for s in (y, z))
            scores = paddle.matmul(x.transpose([0, 2, 1, 3]), keys) / 4 + paddle.to_tensor(extra)
            weights = paddle.nn.functional.softmax(scores)
            out = paddle.matmul(weights, values.transpose([0, 1, 3, 2])).transpose([0, 2, 1, 3])
            out.backward(paddle.to_tensor(grad, "float64"))
            unused = paddle.zeros([1])
            got = ops.flash_attn_bwd(
                *(tensor(s, dtype) for s in (q, k, v)),
                unused,
                unused,
                unused,
                tensor(mask, dtype),
                tensor(grad, dtype),
                0.0,
                causal,
            )
            for g, want in zip(got, (x.grad, y.grad, z.grad), strict=False):
                close(array(g), array(want), dtype, 200 * U32 * np.abs(array(want)).max())
    refuses(
        "dropout",
        ops.flash_attn_bwd,
        *(tensor(s, dtype) for s in (q, k, v)),
        unused,
        unused,
        unused,
        tensor(mask, dtype),
        tensor(grad, dtype),
        0.1,
        True,
    )


# ---------------------------------------------------------------------------- fused_ln


def case_fused_norms():
    rng = np.random.default_rng(20)
    for dtype in FLOATS:
        for kind in ("ln", "rms"):
            x = random(rng, (2, 3, 50), dtype)
            scale, bias = random(rng, 50, dtype), random(rng, 50, dtype)
            grad = random(rng, (2, 3, 50), dtype)
            inputs = [tensor(v, dtype) for v in ((x, scale, bias) if kind == "ln" else (x, scale))]
            exact = [paddle.to_tensor(v, "float64") for v in (x, scale, bias)]
            for v in (*inputs, *exact):
                v.stop_gradient = False
            mean = exact[0].mean(-1, keepdim=True) if kind == "ln" else 0
            inverse = 1 / paddle.sqrt(((exact[0] - mean) ** 2).mean(-1, keepdim=True) + 1e-5)
            want = (exact[0] - mean) * inverse * exact[1]
            want = want + exact[2] if kind == "ln" else want
            function = fused_ln.fused_ln if kind == "ln" else fused_ln.fused_rms_norm
            got, *statistics = function(*inputs, 1e-5)
            size = 16 * U32 * (np.abs(array(want)) + 4 * np.abs(array(exact[1])) + 4)
            close(array(got), array(want), dtype, size)
            close(array(statistics[-1]).ravel(), array(inverse).ravel(), "float32", 4 * U32 * 4)
            assert statistics[-1].shape == ([6] if kind == "ln" else [2, 3])
            want.backward(paddle.to_tensor(grad, "float64"))
            got.backward(tensor(grad, dtype))
            for g, w in zip(inputs, exact, strict=False):
                largest = np.abs(array(w.grad)).max()
                close(array(g.grad), array(w.grad), dtype, 64 * U32 * (largest + 4))
    refuses("do not match", fused_ln.fused_rms_norm, paddle.ones([2, 4]), paddle.ones([3]), 1e-5)
    refuses(
        "same type", fused_ln.fused_rms_norm, paddle.ones([2, 4], "float16"), paddle.ones([4]), 1e-5
    )


def main() -> None:
    paddle.set_device("cpu")
    outcomes = {}
    for name, case in list(globals().items()):
        if not name.startswith("case_"):
            continue
        try:
            case()
            outcomes[name[5:]] = None
        except Exception:
            outcomes[name[5:]] = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
    print(json.dumps(outcomes))


main()
