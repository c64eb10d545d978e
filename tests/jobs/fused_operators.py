"""Compare attention that is composed with kernels and with plain sums: ``fused_operators.py``.

Prints a JSON object with the largest differences, relative to the largest value, of each kind.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from entrypoints.cpu import operators

HEADS, HEAD_DIM, POSITIONS, STEPS = 4, 32, 24, 4
LENGTHS = [7, 3, 5]
KINDS = [(heads, dtype) for heads in (4, 2) for dtype in ("float32", "float16")]


def plain(query: Any, keys: Any, values: Any) -> Any:
    """Return one query's attention, ``[heads, head_dim]``, to ``[key heads, n, head_dim]``."""
    import numpy as np

    group = len(query) // len(keys)
    scores = np.einsum("hd,hnd->hn", query, np.repeat(keys, group, 0)) / np.sqrt(HEAD_DIM)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("hn,hnd->hd", weights, np.repeat(values, group, 0))


def turned(x: Any, rotary: Any) -> Any:
    """Return ``[heads, head_dim]`` turned by cosines and sines, ``[2, head_dim]``, by halves."""
    import numpy as np

    half = HEAD_DIM // 2
    other = np.concatenate([-x[:, half:], x[:, :half]], axis=1)
    return x * rotary[0] + other * rotary[1]


def difference(found: Any, wanted: Any) -> float:
    import numpy as np

    found = np.asarray(found.astype("float32").numpy() if hasattr(found, "numpy") else found)
    assert np.isfinite(found).all()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


class Case:
    """Three rows of unequal lengths, read as prompts and continued."""

    def __init__(self, key_heads: int, dtype: str) -> None:
        import numpy as np
        import paddle

        random = np.random.default_rng(key_heads)
        self.key_heads, self.dtype = key_heads, dtype
        shape = (len(LENGTHS), key_heads, max(LENGTHS), HEAD_DIM)
        self.query = random.normal(size=(len(LENGTHS), HEADS, max(LENGTHS), HEAD_DIM))
        self.key, self.value = random.normal(size=(2, *shape))
        columns = (HEADS + 2 * key_heads) * HEAD_DIM
        self.tokens = random.normal(size=(STEPS, len(LENGTHS), columns))
        angles = np.outer(np.arange(POSITIONS), 10000.0 ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM))
        angles = np.concatenate([angles, angles], axis=1)
        self.rotary = np.stack([np.cos(angles), np.sin(angles)])
        lower = np.tril(np.ones([POSITIONS, POSITIONS]))
        mask = np.broadcast_to((lower - 1) * 1e4, [len(LENGTHS), 1, POSITIONS, POSITIONS])
        self.mask = self.tensor(mask)
        self.lengths = paddle.to_tensor(np.array(LENGTHS, "int32").reshape(-1, 1))
        # What a kernel gets is rounded already.
        for name in ("query", "key", "value", "tokens"):
            rounded = getattr(self, name).astype(dtype).astype("float64")
            setattr(self, name, rounded)

    def tensor(self, array: Any) -> Any:
        import paddle

        return paddle.to_tensor(array.astype("float32")).cast(self.dtype)

    def rows(self, at: int) -> Any:
        """Return the rotary embedding of the rows' next token, ``[2, batch, 1, 1, head_dim]``."""
        import numpy as np
        import paddle

        table = np.stack([self.rotary[:, length + at] for length in LENGTHS], axis=1)
        return paddle.to_tensor(table[:, :, None, None].astype("float32"))

    def wanted(self) -> tuple[list[Any], list[Any]]:
        """Return what prompts and tokens give, in float64."""
        import numpy as np

        prompts = [
            np.stack(
                [plain(self.query[b, :, n], self.key[b, :, : n + 1], self.value[b, :, : n + 1])
                 for n in range(length)], axis=1)
            for b, length in enumerate(LENGTHS)
        ]  # fmt: skip
        keys = [self.key[b, :, :n] for b, n in enumerate(LENGTHS)]
        values = [self.value[b, :, :n] for b, n in enumerate(LENGTHS)]
        steps = []
        for at in range(STEPS):
            out = []
            for b, length in enumerate(LENGTHS):
                heads = self.tokens[at, b].reshape(-1, HEAD_DIM)
                rotary = self.rotary[:, length + at]
                query = turned(heads[:HEADS], rotary)
                key = turned(heads[HEADS : HEADS + self.key_heads], rotary)
                value = heads[HEADS + self.key_heads :]
                keys[b] = np.concatenate([keys[b], key[:, None]], axis=1)
                values[b] = np.concatenate([values[b], value[:, None]], axis=1)
                out.append(plain(query, keys[b], values[b]).reshape(-1))
            steps.append(np.stack(out))
        return prompts, steps


def run(case: Case, prefill: Any, write: Any, decode: Any) -> dict[str, float]:
    """Return how far a prompt's and the tokens' attention are from what is wanted."""
    import paddle

    wanted_prompts, wanted_steps = case.wanted()
    key, value = case.tensor(case.key), case.tensor(case.value)
    found = prefill(case.tensor(case.query), key, value, case.lengths, case.mask)
    worst = {"prompt": max(
        difference(found[b, :, :length], wanted_prompts[b]) for b, length in enumerate(LENGTHS)
    )}  # fmt: skip
    cache = paddle.zeros([2, len(LENGTHS), case.key_heads, POSITIONS, HEAD_DIM]).cast(case.dtype)
    write(key, value, cache, case.lengths)
    mask = paddle.zeros([len(LENGTHS), 1, 1, POSITIONS]).cast(case.dtype)
    worst["token"] = 0.0
    for at in range(STEPS):
        out = decode(case.tensor(case.tokens[at]), cache, mask, case.lengths + at, case.rows(at))
        worst["token"] = max(worst["token"], difference(out, wanted_steps[at]))
    return worst


def main() -> None:
    import numpy as np
    import paddle
    from paddle.incubate.nn import functional
    from paddlenlp_ops import quant_int8, write_cache_kv

    from entrypoints.upstream_patches import attention, norm

    def of(module: Any, write: Any) -> tuple[Any, Any, Any]:
        def prefill(query, key, value, lengths, mask):
            return module.variable_length_memory_efficient_attention(
                query, key, value, lengths, lengths, mask=mask, scale=HEAD_DIM**-0.5
            )

        def decode(x, cache, mask, lengths, rotary):
            return module.masked_multihead_attention(
                x=x, cache_kv=cache, src_mask=mask, sequence_lengths=lengths,
                rotary_tensor=rotary, rotary_emb_dims=1, use_neox_rotary_style=True,
            )[0]  # fmt: skip

        return prefill, write, decode

    found: dict[str, Any] = {}
    composed = of(attention, attention.write_cache)
    for heads, dtype in KINDS:
        name, case = f"{heads} {dtype}", Case(heads, dtype)
        with paddle.no_grad():
            found[f"composed {name}"] = run(case, *composed)
            found[f"kernels {name}"] = run(case, *of(functional, write_cache_kv))
    case = Case(4, "float32")
    x = case.tensor(case.tokens[0])
    whole = (x * 100).round().cast("int32")
    scales = paddle.full([x.shape[1]], 0.01)
    quantized = {"qkv_out_scale": scales, "out_scale": 0.5, "compute_dtype": "fp32"}
    results = []
    for module, write in ((attention, attention.write_cache), (functional, write_cache_kv)):
        cache = paddle.zeros([2, len(LENGTHS), 4, POSITIONS, HEAD_DIM])
        write(case.tensor(case.key), case.tensor(case.value), cache, case.lengths)
        results.append(module.masked_multihead_attention(
            x=whole, cache_kv=cache, src_mask=paddle.zeros([3, 1, 1, POSITIONS]),
            sequence_lengths=case.lengths, rotary_tensor=case.rows(0), rotary_emb_dims=1,
            use_neox_rotary_style=True, quant_round_type=1, **quantized,
        )[0])  # fmt: skip
    one, other = (result.cast("int32").numpy() for result in results)
    found["int8"] = {"dtype": str(results[0].dtype), "steps": int(np.abs(one - other).max()),
                     "values": len(set(one.reshape(-1).tolist()))}  # fmt: skip
    x = paddle.randn([5, 64])
    weight = paddle.rand([64])
    normed = functional.fused_rms_norm(x, weight, None, 1e-5, 1)[0]
    rounded = norm.rms_norm(
        x, weight, None, 1e-5, 1, quant_scale=0.25, quant_round_type=1, quant_max_bound=127.0,
        quant_min_bound=-127.0,
    )  # fmt: skip
    right = quant_int8(normed, None, None, 0.25, 1, 127.0, -127.0)
    found["norm"] = {"dtype": str(rounded.dtype), "same": bool((rounded == right).all()),
                     "values": len(set(rounded.numpy().reshape(-1).tolist()))}  # fmt: skip
    Path("found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    changed = operators.variables(os.environ)
    if os.environ.get("CUSTOM_DEVICE_ROOT") != changed["CUSTOM_DEVICE_ROOT"]:
        # Paddle takes the operators when it is imported, and a warm container's has been.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **changed})
    main()
