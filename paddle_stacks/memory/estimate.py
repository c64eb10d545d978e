"""Estimate a rank's memory, line by line: bytes, formula and source.

Activations are counted in units of ``s*b*h``: one value per token and element of the
residual stream. The tensors that Paddle saves for the backward pass were counted in
PaddleNLP's ``llama/modeling.py``, operator by operator, with the method of Korthikanti et
al. 2022 ("Reducing Activation Recomputation in Large Transformer Models", arXiv:2205.05198).
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.memory.states import States, shares, states

__all__ = [
    "BLOCK",
    "GRANULARITIES",
    "RESERVE",
    "Line",
    "Plan",
    "Workload",
    "layer_activations",
    "plan",
]

GRANULARITIES = ("none", "core_attn", "full_attn", "full")
"""Upstream's values of ``recompute_granularity``, and ``none`` for no recomputation."""

BLOCK = 64
"""Tokens of a block of the cache: the default of upstream's ``--block_size``."""
_SCORES = 4  # bytes per score of softmax's gradient
RESERVE = 0.06
"""The allocator's reserve relative to the tensors: from bench/published_memory.toml."""

_ZERO = "Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1"
_KORTHIKANTI = "Korthikanti et al. 2022, arXiv:2205.05198"
_COUNTED = f"counted in PaddleNLP's llama/modeling.py with the method of {_KORTHIKANTI}"
_LORA = "Hu et al. 2021 (LoRA), arXiv:2106.09685, section 4.1"


@dataclass(frozen=True)
class Workload:
    """The computation whose memory is estimated.

    Args:
        method: ``full``, ``lora`` or ``inference``.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        level: mixed-precision level: ``O1`` keeps weights in float32, ``O2`` in ``dtype``.
        master_weights: whether AdamW keeps float32 copies of half-precision weights.
        master_gradients: whether gradients are in float32 (``amp_master_grad``).
        rank: LoRA rank.
        batch: sequences per micro-batch.
        sequence: tokens per sequence.
        micro_batches: micro-batches per step.
        recompute: one of :data:`GRANULARITIES`.
        flash: use flash attention, which stores no score matrix.
        fused_norm: use the fused RMS norm.
        fused_rope: use the fused rotary embedding.
        int8_weights: the layers' matrices are quantized to int8 (a8w8), for inference.
        int8_cache: keys and values are quantized to int8, for inference.
        blocks: the cache consists of blocks of :data:`BLOCK` tokens (``--block_attn``), and
            prefill stores no score matrix.
    """

    method: str = "lora"
    dtype: str = "float16"
    level: str = "O2"
    master_weights: bool = True
    master_gradients: bool = False
    rank: int = 8
    batch: int = 1
    sequence: int = 4096
    micro_batches: int = 1
    recompute: str = "none"
    flash: bool = False
    fused_norm: bool = False
    fused_rope: bool = False
    int8_weights: bool = False
    int8_cache: bool = False
    blocks: bool = False

    @property
    def half(self) -> bool:
        """Whether matrix products are in half precision."""
        return self.dtype != "float32"

    @property
    def value_bytes(self) -> int:
        """Bytes per value of an activation."""
        return 2 if self.half else 4

    @property
    def stream_bytes(self) -> int:
        """Bytes per value of the residual stream: O1 adds half precision to float32."""
        return 2 if self.half and (self.level == "O2" or self.method == "inference") else 4

    @property
    def states(self) -> States:
        """Bytes per trained parameter: weight, gradient, optimizer."""
        half = self.half and (self.level == "O2" or self.method == "inference")
        return states(
            half=half, master_weights=self.master_weights, master_gradients=self.master_gradients
        )

    @property
    def weight(self) -> int:
        """Bytes per weight."""
        return self.states.weight


@dataclass(frozen=True)
class Line:
    """One line of a plan.

    Args:
        name: what the memory is used for.
        size: bytes.
        formula: the formula with its numbers.
        source: where the formula comes from.
    """

    name: str
    size: int
    formula: str
    source: str


@dataclass(frozen=True)
class Plan:
    """The peak memory of one rank of a pipeline stage.

    Args:
        stage: pipeline stage, from 0.
        lines: the tensors at the peak.
        moment: when the peak occurs.
    """

    stage: int
    lines: tuple[Line, ...]
    moment: str

    @property
    def allocated(self) -> int:
        """The sum of all lines in bytes: ``max_memory_allocated``."""
        return sum(line.size for line in self.lines)

    @property
    def reserve(self) -> Line:
        """The memory that the allocator holds beside the tensors, in pieces that do not fit."""
        formula = f"{RESERVE:.0%} of the tensors"
        source = "max_memory_reserved was 1.04 to 1.07 times max_memory_allocated in logs of DCUs"
        return Line("allocator's reserve", round(self.allocated * RESERVE), formula, source)

    @property
    def size(self) -> int:
        """The tensors and the allocator's reserve in bytes: ``max_memory_reserved``."""
        return self.allocated + self.reserve.size


def layer_activations(model: LlamaConfig, work: Workload, layout: Layout) -> tuple[int, int]:
    """Return the bytes that a decoder layer stores for its backward pass, and without recompute.

    Per token and element of the stream, with ``e`` bytes per value, ``r`` bytes per value of
    the stream, ``g`` the width of the keys and ``f`` the intermediate size, both relative to
    ``h``:

    * residual stream, the input of each norm: ``2r``
    * each RMS norm, without its input: unfused in float32 three copies, ``3*4``; unfused in
      half precision two in float32 and two in half, ``2*4 + 2*2``; fused only the result, ``e``
    * rotary embedding, unfused: q and k before and after rotation: ``2e(1 + g)``; fused: 0
    * attention's operands q, k and v: ``3e`` (unfused, k and v repeated for every head) or
      ``e(1 + 2g)`` (flash attention)
    * scores: softmax in float32, and its copy multiplied with v: ``(4 + e) * a * s / h``;
      flash attention: 4 bytes per token and head
    * the input of the output projection: ``e``
    * SwiGLU: gate, up and their product: ``3ef``

    Tensors inside attention and MLP are divided by ``tp``; the others only with sequence
    parallelism.

    Args:
        model: the model's architecture.
        work: the workload.
        layout: the parallel layout.
    """
    e, h = work.value_bytes, model.hidden_size
    g, f = model.kv_size / h, model.intermediate_size / h
    norm = e if work.fused_norm else 12
    rope = 0.0 if work.fused_rope else 2 * e * (1 + g)
    operands = e * (1 + 2 * g) if work.flash else 3.0 * e
    per_head = 4 if work.flash else (4 + e) * work.sequence
    scores = per_head * model.num_attention_heads / h
    unit = work.sequence * work.batch * h
    t, outside = layout.tensor, layout.tensor if layout.sequence_parallel else 1
    stream = (2 * work.stream_bytes + 2 * norm) / outside
    attention = (rope + operands + scores + e) / t
    mlp = 3 * e * f / t
    whole = stream + attention + mlp
    stored = {
        "none": whole,
        "core_attn": whole - (scores + (e if work.flash else 0)) / t,
        "full_attn": stream + mlp,
        "full": work.stream_bytes / outside,
    }[work.recompute]
    return round(unit * stored), round(unit * whole)


def plan(model: LlamaConfig, work: Workload, layout: Layout) -> tuple[Plan, ...]:
    """Return the peak memory of a rank of each pipeline stage.

    Args:
        model: the model's architecture.
        work: the workload.
        layout: the parallel layout; it must divide the model.
    """
    return tuple(_stage(model, work, layout, i) for i in range(layout.pipeline))


def _stage(model: LlamaConfig, work: Workload, layout: Layout, stage: int) -> Plan:
    first, last = stage == 0, stage == layout.pipeline - 1
    layers = model.num_hidden_layers // layout.pipeline
    base = _parameters(model, layout, first, last)
    trained = base
    if work.method == "lora":
        trained = layers * _adapter(model, work.rank, layout.tensor)
    always = [_weights(model, work, layout, base, trained), _tables(model, work, layers)]
    logits = [_logits(model, work, layout)] if last else []
    if work.method == "inference":
        if work.int8_weights:
            always[0] = _quantized_weights(model, work, layout, base, layers)
        lines = [*always, _cache(model, work, layout, layers), *logits]
        lines.append(_temporary(model, work, layout))
        return Plan(stage, tuple(lines), "during prefill")
    always += _optimizer(work, layout, trained)
    stored, *again = _activations(model, work, layout, stage, layers)
    # The logits' gradients are freed before the last layer is recomputed: the larger counts.
    larger = max([*logits, *again], key=lambda line: line.size, default=None)
    backward = [stored, *([larger] if larger else []), _temporary(model, work, layout)]
    step = [_clipped(work, layout, trained)] if layout.least == 1 else []
    if sum(line.size for line in backward) >= sum(line.size for line in step):
        return Plan(stage, (*always, *backward), "at the start of the backward pass")
    return Plan(stage, (*always, *step), "in the optimizer step")


def _clipped(work: Workload, layout: Layout, trained: int) -> Line:
    """Return the copy of the gradients that clipping creates, after activations are freed.

    In a hybrid layout, ``HybridParallelClipGrad`` multiplies the gradients in place.
    """
    each, (_, shared, _) = work.states.gradient, shares(layout)
    formula = f"{trained:,} trained x {each} B" + (f" / {shared}" if shared > 1 else "")
    source = "paddle.nn.ClipGradByGlobalNorm returns new gradients"
    return Line("clipped gradients", trained * each // shared, formula, source)


def _tables(model: LlamaConfig, work: Workload, layers: int) -> Line:
    width = model.hidden_size // model.num_attention_heads
    size = 2 * layers * model.max_position_embeddings * width * work.weight
    formula = (
        f"2 x {layers} layers x {model.max_position_embeddings} tokens x {width} x {work.weight} B"
    )
    return Line("rotary tables", size, formula, "LlamaRotaryEmbedding: cosine and sine per layer")


def _parameters(model: LlamaConfig, layout: Layout, first: bool, last: bool) -> int:
    """Return the parameters of one rank; tensor parallelism does not divide the norms."""
    layers, t = model.num_hidden_layers // layout.pipeline, layout.tensor
    matrices = sum(rows * columns for rows, columns in model.matrices)
    count = layers * (matrices // t + 2 * model.hidden_size)
    heads = (1 if first else 0) + (1 if last else 0)
    if model.tie_word_embeddings and first and last:
        heads = 1  # in a pipeline, the last stage has a copy
    return count + heads * model.embedding // t + (model.hidden_size if last else 0)


def _adapter(model: LlamaConfig, rank: int, tensor: int) -> int:
    """Return the LoRA parameters of one layer on one rank.

    Tensor parallelism splits only one of the two adapter matrices of a weight.
    """
    count = 0
    for index, (rows, columns) in enumerate(model.matrices):
        by_rows = index in (3, 6)  # o and down are split along their inputs
        count += rank * (
            (rows // tensor if by_rows else rows) + (columns if by_rows else columns // tensor)
        )
    return count


def _weights(model: LlamaConfig, work: Workload, layout: Layout, base: int, trained: int) -> Line:
    shared, _, _ = shares(layout)
    adapter = trained if work.method == "lora" else 0
    formula = f"{base + adapter:,} parameters x {work.weight} B"
    formula += f" / {shared} (stage 3)" if shared > 1 else ""
    source = _LORA if adapter else "the shapes in config.json"
    return Line("parameters", (base + adapter) * work.weight // shared, formula, source)


def _quantized_weights(
    model: LlamaConfig, work: Workload, layout: Layout, base: int, layers: int
) -> Line:
    """Return the weights of an a8w8 model: int8 matrices of the layers, the rest as before."""
    matrices = layers * sum(rows * columns for rows, columns in model.matrices) // layout.tensor
    scales = layers * sum(columns for _, columns in model.matrices) // layout.tensor
    size = matrices + (base - matrices) * work.weight + 4 * scales
    formula = (
        f"{matrices:,} x 1 B + {base - matrices:,} x {work.weight} B + {scales:,} scales x 4 B"
    )
    return Line("parameters", size, formula, "a8w8: int8 matrices, a float32 scale per output")


def _optimizer(work: Workload, layout: Layout, trained: int) -> list[Line]:
    """Return gradients, master weights and AdamW's moments of the trained parameters."""
    sizes = work.states
    _, by_two, by_one = shares(layout)

    def line(name: str, each: int, by: int) -> Line:
        formula = f"{trained:,} trained x {each} B" + (f" / {by} (sharding)" if by > 1 else "")
        return Line(name, trained * each // by, formula, _ZERO)

    lines = [line("gradients", sizes.gradient, by_two)]
    if sizes.master:
        lines.append(line("master weights", sizes.master, by_one))
    return [*lines, line("AdamW's two moments", sizes.moments, by_one)]


def _in_flight(work: Workload, layout: Layout, stage: int) -> float:
    """Return the number of micro-batches whose activations a stage stores at once.

    1F1B: ``min(m, p - i)`` on stage i. Interleaved: ``p(1 + (p - 1)/(pv))`` on the first
    stage (Korthikanti et al. 2022, section 4.2.3) and ``((v - 1)p + 2(p - i) - 1) / v``
    on stage i: its warm-up chunks and the current one (Narayanan et al. 2021,
    arXiv:2104.04473, section 2.2).
    """
    p, v, m = layout.pipeline, layout.virtual, work.micro_batches
    if p == 1:
        return 1.0
    if v == 1:
        return float(min(m, p - stage))
    return min(m * v, (v - 1) * p + 2 * (p - stage) - 1) / v


def _activations(
    model: LlamaConfig, work: Workload, layout: Layout, stage: int, layers: int
) -> list[Line]:
    stored, whole = layer_activations(model, work, layout)
    flight = _in_flight(work, layout, stage)
    name = "activations"
    name += " (no recompute)" if work.recompute == "none" else f" (recompute {work.recompute})"
    if work.recompute in ("full", "full_attn") and work.method == "lora" and stage == 0:
        # Upstream recomputes only layers whose input has a gradient. The embedding is frozen,
        # so the first layer stores all of its activations.
        size = round(flight * ((layers - 1) * stored + whole))
        formula = f"({layers - 1} layers x {stored:,} B + the first, {whole:,} B) x {flight:g}"
    else:
        size = round(flight * layers * stored)
        formula = f"{layers} layers x {stored:,} B x {flight:g} micro-batches in flight"
    lines = [Line(name, size, formula, _COUNTED)]
    if whole > stored:
        scores = 0 if work.flash else _SCORES * work.batch * work.sequence**2
        scores = scores * model.num_attention_heads // layout.tensor
        formula = "one layer without recompute, minus its stored activations"
        formula += f", and {_SCORES} B per score for their gradient" if scores else ""
        source = f"{_KORTHIKANTI}, section 5; softmax's gradient is float32"
        lines.append(Line("recomputed layer", whole - stored + scores, formula, source))
    return lines


def _logits(model: LlamaConfig, work: Workload, layout: Layout) -> Line:
    tokens = work.batch * (1 if work.method == "inference" else work.sequence)
    # Logits, their float32 copy, softmax, and the gradients of both.
    each = work.value_bytes + 4 if work.method == "inference" else 2 * work.value_bytes + 12
    formula = f"{tokens:,} tokens x {model.vocab_size:,} / tp {layout.tensor} x {each} B"
    source = "logits; their float32 copy, softmax and gradient (LlamaPretrainingCriterion)"
    if work.method == "inference":
        source = "logits of the last token, and their float32 copy"
    size = tokens * model.vocab_size // layout.tensor * each
    return Line("logits and loss", size, formula, source)


def _cache(model: LlamaConfig, work: Workload, layout: Layout, layers: int) -> Line:
    each, source = work.sequence, "keys and values of every token (Shazeer 2019, arXiv:1911.02150)"
    if work.blocks:
        each = -(-work.sequence // BLOCK) * BLOCK
        source += f", in blocks of {BLOCK} tokens"
    tokens, width = work.batch * each, 1 if work.int8_cache else work.value_bytes
    size = 2 * layers * model.kv_size // layout.tensor * tokens * width
    formula = f"2 x {layers} layers x {model.kv_size} / tp {layout.tensor} x {tokens:,} tokens"
    return Line("KV cache", size, f"{formula} x {width} B", source)


def _temporary(model: LlamaConfig, work: Workload, layout: Layout) -> Line:
    """Return the largest buffer that only one operator needs."""
    largest = max(rows * columns for rows, columns in model.matrices) // layout.tensor
    tokens = work.batch * work.sequence
    if work.method == "inference":
        widest = (
            model.hidden_size + 2 * model.intermediate_size // layout.tensor
        ) * work.value_bytes
        formula = f"{tokens:,} tokens x (h + 2 x intermediate / tp) x {work.value_bytes} B"
        scores = model.num_attention_heads // layout.tensor * work.sequence * (4 + work.value_bytes)
        if not (work.flash or work.blocks) and scores > widest:
            widest = scores
            formula = f"{tokens:,} tokens x heads / tp x {work.sequence} x {4 + work.value_bytes} B"
        return Line("temporary buffers", tokens * widest, formula, "the widest operator in prefill")
    merged = largest * work.value_bytes if work.method == "lora" else largest * 4
    if work.level == "O1" and work.half:
        # O1 casts each matrix for its product, and stores the copy for the backward pass; with
        # full recompute only that of the recomputed layer.
        layers = 1 if work.recompute == "full" else model.num_hidden_layers // layout.pipeline
        merged += layers * sum(r * c for r, c in model.matrices) // layout.tensor * 2
    sent = 2 * tokens * model.hidden_size * work.stream_bytes if layout.pipeline > 1 else 0
    formula = "the largest matrix" + (", one micro-batch sent and one received" if sent else "")
    source = "LoRA's merged weight, or the square for clipping; the pipeline's messages"
    return Line("temporary buffers", merged + sent, formula, source)
