"""What a rank holds, line by line: bytes, the formula they come from, and who says so.

The unit of an activation is ``s*b*h``: one number for every token and every element of
the residual stream. What Paddle keeps for a backward pass was counted from PaddleNLP's
``llama/modeling.py`` operator by operator, in the way of Korthikanti et al. 2022
("Reducing Activation Recomputation in Large Transformer Models", arXiv:2205.05198).
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle_stacks.jobs.architecture import Architecture
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.memory.states import States, shares, states

__all__ = ["GRANULARITIES", "Line", "Plan", "Work", "layer_activations", "plan"]

GRANULARITIES = ("none", "core_attn", "full_attn", "full")
"""What is computed again: upstream's ``recompute_granularity``, or nothing."""

_ZERO = "Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1"
_KORTHIKANTI = "Korthikanti et al. 2022, arXiv:2205.05198"
_COUNTED = f"counted in PaddleNLP's llama/modeling.py in the way of {_KORTHIKANTI}"
_LORA = "Hu et al. 2021 (LoRA), arXiv:2106.09685, section 4.1"


@dataclass(frozen=True)
class Work:
    """What is computed.

    Args:
        method: ``full``, ``lora`` or ``inference``.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        level: of mixed precision: ``O1`` keeps weights in float32, ``O2`` in ``dtype``.
        master_weights: whether AdamW has a copy of half-precision weights in float32.
        master_gradients: whether gradients are in float32 (``amp_master_grad``).
        rank: of LoRA.
        batch: rows of a micro-batch.
        sequence: tokens of a row.
        micro_batches: of a step.
        recompute: one of :data:`GRANULARITIES`.
        flash: flash attention: no score matrix is kept.
        fused_norm: the fused RMS norm.
        fused_rope: the fused rotary embedding.
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

    @property
    def half(self) -> bool:
        """Whether matrices are multiplied in half precision."""
        return self.dtype != "float32"

    @property
    def number(self) -> int:
        """Bytes of a number in an activation."""
        return 2 if self.half else 4

    @property
    def states(self) -> States:
        """What is held of every parameter that is trained."""
        half = self.half and (self.level == "O2" or self.method == "inference")
        return states(
            half=half, master_weights=self.master_weights, master_gradients=self.master_gradients
        )

    @property
    def weight(self) -> int:
        """Bytes of a weight."""
        return self.states.weight


@dataclass(frozen=True)
class Line:
    """One line of a plan.

    Args:
        name: what is held.
        size: bytes.
        formula: with its numbers.
        source: who says so.
    """

    name: str
    size: int
    formula: str
    source: str


@dataclass(frozen=True)
class Plan:
    """What one rank of a pipeline stage holds at its peak.

    Args:
        stage: of the pipeline, from 0.
        lines: what is held at the peak; what is not there at that moment is left out.
        moment: when the peak is.
    """

    stage: int
    lines: tuple[Line, ...]
    moment: str

    @property
    def size(self) -> int:
        """Bytes of all lines."""
        return sum(line.size for line in self.lines)


def layer_activations(model: Architecture, work: Work, layout: Layout) -> tuple[int, int]:
    """Return the bytes a decoder layer keeps for its backward pass, and all that it makes.

    Per token and element of the stream, with ``e`` bytes a number, ``g`` the width of the
    keys and ``f`` the inner width, both relative to ``h``:

    * residual stream, the input of each norm: ``2e``
    * each RMS norm, its input not counted again: unfused in float32 three copies, ``3*4``, in
      half precision two in float32 and two in half, ``2*4 + 2*2``; fused, the result alone, ``e``
    * rotary embedding, unfused: q and k before it, and rotated: ``2e(1 + g)``; fused: nothing
    * attention's operands: q, k and v as multiplied: ``3e`` (unfused, k and v repeated for
      every head) or ``e(1 + 2g)`` (flash attention)
    * scores: softmax in float32, and what is multiplied with v: ``(4 + e) * a * s / h``;
      flash attention: 4 bytes for each row and head
    * the input of the output projection: ``e``
    * SwiGLU: gate, up and their product: ``3ef``

    What is inside the matrices is divided by ``tp``; the rest is with sequence parallelism.

    Args:
        model: the shape.
        work: what is computed.
        layout: how it is spread.
    """
    e, h = work.number, model.hidden
    g, f = model.keys / h, model.inner / h
    norm = e if work.fused_norm else 12
    rope = 0.0 if work.fused_rope else 2 * e * (1 + g)
    operands = e * (1 + 2 * g) if work.flash else 3.0 * e
    per_head = 4 if work.flash else (4 + e) * work.sequence
    scores = per_head * model.heads / h
    unit = work.sequence * work.batch * h
    t, outside = layout.tensor, layout.tensor if layout.sequence_parallel else 1
    stream = (2 * e + 2 * norm) / outside
    attention = (rope + operands + scores + e) / t
    mlp = 3 * e * f / t
    whole = stream + attention + mlp
    kept = {
        "none": whole,
        "core_attn": whole - (scores + (e if work.flash else 0)) / t,
        "full_attn": stream + mlp,
        "full": e / outside,
    }[work.recompute]
    return round(unit * kept), round(unit * whole)


def plan(model: Architecture, work: Work, layout: Layout) -> tuple[Plan, ...]:
    """Return what the ranks of each pipeline stage hold at their peak.

    Args:
        model: the shape.
        work: what is computed.
        layout: how it is spread; it divides the model.
    """
    return tuple(_stage(model, work, layout, i) for i in range(layout.pipeline))


def _stage(model: Architecture, work: Work, layout: Layout, stage: int) -> Plan:
    first, last = stage == 0, stage == layout.pipeline - 1
    layers = model.layers // layout.pipeline
    base = _parameters(model, layout, first, last)
    trained = base
    if work.method == "lora":
        trained = layers * _adapter(model, work.rank, layout.tensor)
    always = [_weights(model, work, layout, base, trained), _tables(model, work, layers)]
    logits = [_logits(model, work, layout)] if last else []
    if work.method == "inference":
        lines = [*always, _cache(model, work, layout, layers), *logits]
        lines.append(_temporary(model, work, layout))
        return Plan(stage, tuple(lines), "a prompt is read")
    always += _optimizer(work, layout, trained)
    kept, *again = _activations(model, work, layout, stage, layers)
    # When the last layer is computed again, the logits' gradients are gone.
    either = max([*logits, *again], key=lambda line: line.size, default=None)
    backward = [kept, *([either] if either else []), _temporary(model, work, layout)]
    step = [_clipped(work, layout, trained)]
    if sum(line.size for line in backward) >= sum(line.size for line in step):
        return Plan(stage, (*always, *backward), "the backward pass begins")
    return Plan(stage, (*always, *step), "the optimizer steps")


def _clipped(work: Work, layout: Layout, trained: int) -> Line:
    """Return the second set of gradients that clipping makes, when activations are gone."""
    each, (_, shared, _) = work.states.gradient, shares(layout)
    formula = f"{trained:,} trained x {each} B" + (f" / {shared}" if shared > 1 else "")
    source = "paddle.nn.ClipGradByGlobalNorm gives new gradients"
    return Line("clipped gradients", trained * each // shared, formula, source)


def _tables(model: Architecture, work: Work, layers: int) -> Line:
    width = model.hidden // model.heads
    size = 2 * layers * model.context * width * work.weight
    formula = f"2 x {layers} layers x {model.context} tokens x {width} x {work.weight} B"
    return Line("rotary tables", size, formula, "LlamaRotaryEmbedding: cosine and sine of a layer")


def _parameters(model: Architecture, layout: Layout, first: bool, last: bool) -> int:
    """Return the parameters of one rank; norms are not divided by tensor parallelism."""
    layers, t = model.layers // layout.pipeline, layout.tensor
    matrices = sum(rows * columns for rows, columns in model.matrices)
    count = layers * (matrices // t + 2 * model.hidden)
    heads = (1 if first else 0) + (1 if last else 0)
    if model.tied and first and last:
        heads = 1  # in a pipeline, the last stage has a copy
    return count + heads * model.embedding // t + (model.hidden if last else 0)


def _adapter(model: Architecture, rank: int, tensor: int) -> int:
    """Return LoRA's parameters of one layer on one rank.

    The side of a matrix that tensor parallelism does not split is whole on every rank.
    """
    count = 0
    for index, (rows, columns) in enumerate(model.matrices):
        by_rows = index in (3, 6)  # o and down are split along their inputs
        count += rank * (
            (rows // tensor if by_rows else rows) + (columns if by_rows else columns // tensor)
        )
    return count


def _weights(model: Architecture, work: Work, layout: Layout, base: int, trained: int) -> Line:
    shared, _, _ = shares(layout)
    adapter = trained if work.method == "lora" else 0
    formula = f"{base + adapter:,} parameters x {work.weight} B"
    formula += f" / {shared} (stage 3)" if shared > 1 else ""
    source = _LORA if adapter else "the shapes in config.json"
    return Line("parameters", (base + adapter) * work.weight // shared, formula, source)


def _optimizer(work: Work, layout: Layout, trained: int) -> list[Line]:
    """Return gradients, master weights and AdamW's moments of the trained parameters."""
    held = work.states
    _, by_two, by_one = shares(layout)

    def line(name: str, each: int, by: int) -> Line:
        formula = f"{trained:,} trained x {each} B" + (f" / {by} (sharding)" if by > 1 else "")
        return Line(name, trained * each // by, formula, _ZERO)

    lines = [line("gradients", held.gradient, by_two)]
    if held.master:
        lines.append(line("master weights", held.master, by_one))
    return [*lines, line("AdamW's two moments", held.moments, by_one)]


def _in_flight(work: Work, layout: Layout, stage: int) -> float:
    """Return how many micro-batches' activations a stage keeps, in units of its layers.

    1F1B: ``min(m, p - i)`` on stage i. Interleaved, the first stage keeps
    ``p(1 + (p - 1)/(pv))`` (Korthikanti et al. 2022, section 4.2.3), stage i
    ``((v - 1)p + 2(p - i) - 1) / v`` chunks of warm-up and one under way
    (Narayanan et al. 2021, arXiv:2104.04473, section 2.2).
    """
    p, v, m = layout.pipeline, layout.virtual, work.micro_batches
    if p == 1:
        return 1.0
    if v == 1:
        return float(min(m, p - stage))
    return min(m * v, (v - 1) * p + 2 * (p - stage) - 1) / v


def _activations(
    model: Architecture, work: Work, layout: Layout, stage: int, layers: int
) -> list[Line]:
    kept, whole = layer_activations(model, work, layout)
    flight = _in_flight(work, layout, stage)
    name = f"activations ({'all kept' if work.recompute == 'none' else work.recompute})"
    if work.recompute in ("full", "full_attn") and work.method == "lora" and stage == 0:
        # Upstream recomputes what has a gradient in its input; above a frozen embedding the
        # first layer has none, so that it keeps everything.
        size = round(flight * ((layers - 1) * kept + whole))
        formula = f"({layers - 1} layers x {kept:,} B + the first, {whole:,} B) x {flight:g}"
    else:
        size = round(flight * layers * kept)
        formula = f"{layers} layers x {kept:,} B x {flight:g} micro-batches under way"
    lines = [Line(name, size, formula, _COUNTED)]
    if whole > kept:
        said = "one layer as if nothing were recomputed, less what it keeps"
        source = f"{_KORTHIKANTI}, section 5"
        lines.append(Line("the layer computed again", whole - kept, said, source))
    return lines


def _logits(model: Architecture, work: Work, layout: Layout) -> Line:
    tokens = work.batch * (1 if work.method == "inference" else work.sequence)
    # Logits, their float32 copy, softmax, and the gradients of both.
    each = work.number + 4 if work.method == "inference" else 2 * work.number + 12
    formula = f"{tokens:,} tokens x {model.vocabulary:,} / tp {layout.tensor} x {each} B"
    source = "logits; in float32: copy, softmax, gradient (LlamaPretrainingCriterion)"
    if work.method == "inference":
        source = "logits of the last token, and their float32 copy"
    size = tokens * model.vocabulary // layout.tensor * each
    return Line("logits and loss", size, formula, source)


def _cache(model: Architecture, work: Work, layout: Layout, layers: int) -> Line:
    tokens = work.batch * work.sequence
    size = 2 * layers * model.keys // layout.tensor * tokens * work.number
    formula = f"2 x {layers} layers x {model.keys} / tp {layout.tensor} x {tokens:,} tokens"
    source = "keys and values of every token (Shazeer 2019, arXiv:1911.02150)"
    return Line("KV cache", size, f"{formula} x {work.number} B", source)


def _temporary(model: Architecture, work: Work, layout: Layout) -> Line:
    """Return what is there for one operator only; the largest counts."""
    largest = max(rows * columns for rows, columns in model.matrices) // layout.tensor
    tokens = work.batch * work.sequence
    if work.method == "inference":
        widest = (model.hidden + 2 * model.inner // layout.tensor) * work.number
        formula = f"{tokens:,} tokens x (h + 2 x inner / tp) x {work.number} B"
        scores = model.heads // layout.tensor * work.sequence * (4 + work.number)
        if not work.flash and scores > widest:
            widest = scores
            formula = f"{tokens:,} tokens x heads / tp x {work.sequence} x {4 + work.number} B"
        return Line("temporary buffers", tokens * widest, formula, "a prompt's widest operator")
    merged = largest * work.number if work.method == "lora" else largest * 4
    if work.level == "O1" and work.half:
        # O1 casts each matrix for its product, and keeps the copy for the backward pass.
        layers = model.layers // layout.pipeline
        merged += layers * sum(r * c for r, c in model.matrices) // layout.tensor * 2
    sent = 2 * tokens * model.hidden * work.number if layout.pipeline > 1 else 0
    formula = "the largest matrix once" + (", a row sent and one received" if sent else "")
    source = "merged weights of LoRA, or the square for clipping; sends of the pipeline"
    return Line("temporary buffers", merged + sent, formula, source)
