"""Decoding with the native engine: ragged batches over blocks of keys and values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entrypoints.inference import quantized
from entrypoints.inference.weights import Weights
from entrypoints.models.int8 import LARGEST
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.native import library
from entrypoints.native.config import NativeConfig
from entrypoints.native.library import BLOCK, PROJECTIONS, Type
from entrypoints.native.lora import LoraAdapter
from entrypoints.native.packing import (
    EMBEDDING,
    HEAD,
    NORM,
    Packed,
    open_packed,
    stored_precision,
)
from paddle_stacks.jobs import workspace

__all__ = ["Block", "NativeDecoding", "NativeModel", "load"]

_CHUNK = 512  # tokens of a step: bounds memory

Floats = npt.NDArray[np.float32]


def load(
    folder: Path, adapter: Path | None = None, precision: str | None = None, *, save: bool = True
) -> NativeModel:
    """Return the model of a PaddleNLP checkpoint.

    Args:
        folder: the checkpoint.
        adapter: a LoRA adapter, which is not merged; None for none.
        precision: ``fp32``, ``bf16`` or ``int8``; None for that of the checkpoint.
        save: whether packed weights are written beside the checkpoint.

    Raises:
        RequestError: the checkpoint or the adapter is missing, damaged or not supported.
        MachineError: the engine's library is missing.
    """
    library.load()
    config = NativeConfig.read(folder)
    weights = Weights(folder)
    precision = precision or stored_precision(weights)
    lora = None
    if adapter is not None:
        lora = LoraAdapter.load(adapter, folder, config)
    packed = open_packed(config, weights, precision, save=save)
    steps = {}
    if workspace.is_quantized(folder):
        scales = quantized.activation_scales(
            folder, config.llama.num_hidden_layers, config.llama.num_key_value_heads
        )
        steps = {name: scale / np.float32(LARGEST) for name, scale in scales.items()}
    return NativeModel(config, packed, steps, lora)


class Block(NamedTuple):
    """Keys and values of :data:`library.BLOCK` positions in all layers.

    Args:
        memory: aligned to a cache line.
        address: of the memory.
    """

    memory: npt.NDArray[np.uint8]
    address: int


class NativeModel:
    """A model that is called a step at a time.

    Args:
        config: of the network.
        packed: its weights.
        steps: what activations and caches are rounded to multiples of, by upstream's names of
            products; empty for no rounding.
        adapter: applied to every token; None for none.
        threads: that compute; None for ``OMP_NUM_THREADS``.
        instructions: one of :data:`library.INSTRUCTION_SETS`.

    Attributes:
        config: as above.
    """

    def __init__(
        self,
        config: NativeConfig,
        packed: Packed,
        steps: Mapping[str, Floats] | None = None,
        adapter: LoraAdapter | None = None,
        threads: int | None = None,
        instructions: str = "auto",
    ) -> None:
        self.config = config
        self._packed = packed  # keeps the memory that the structures point to
        self._adapter = adapter
        self._threads = threads or int(os.environ.get("OMP_NUM_THREADS", "1"))
        self._instructions = instructions
        self._steps = {
            name: np.ascontiguousarray(step, np.float32).reshape(-1)
            for name, step in (steps or {}).items()
        }
        llama = config.llama
        layers = range(llama.num_hidden_layers)
        self._layers = (library.Layer * len(layers))(
            *(self._layer(f"llama.layers.{number}.") for number in layers)
        )
        self._model = library.Model(
            layers=len(layers),
            hidden=llama.hidden_size,
            intermediate=llama.intermediate_size,
            heads=llama.num_attention_heads,
            kv_heads=llama.num_key_value_heads,
            head_dim=llama.head_dim,
            vocabulary=llama.vocab_size,
            context=llama.max_position_embeddings,
            epsilon=llama.rms_norm_eps,
            embedding_type=packed.types.get(EMBEDDING, Type.FLOAT32),
            embedding=None if llama.tie_word_embeddings else packed.address(EMBEDDING),
            norm=packed.address(NORM),
            cos=packed.address("cos"),
            sin=packed.address("sin"),
            head=self._linear(
                EMBEDDING if llama.tie_word_embeddings else HEAD,
                llama.hidden_size,
                llama.vocab_size,
            ),
            layer=self._layers,
        )
        self._block_bytes = library.block_bytes(self._model)

    def _layer(self, prefix: str) -> library.Layer:
        shapes = paddle_weight_shapes(self.config.llama)
        address = self._packed.address
        layer = library.Layer(
            attention_input=self._input(f"{prefix}self_attn.q_proj"),
            output_input=self._input(f"{prefix}self_attn.o_proj"),
            mlp_input=self._input(f"{prefix}mlp.gate_proj"),
            down_input=self._input(f"{prefix}mlp.down_proj"),
            attention_norm=address(f"{prefix}input_layernorm.weight"),
            attention_norm_bias=address(f"{prefix}input_layernorm.bias"),
            mlp_norm=address(f"{prefix}post_attention_layernorm.weight"),
            mlp_norm_bias=address(f"{prefix}post_attention_layernorm.bias"),
            key_steps=self._step_address(f"{prefix}self_attn.cachek_matmul"),
            value_steps=self._step_address(f"{prefix}self_attn.cachev_matmul"),
        )
        for number, projection in enumerate(PROJECTIONS):
            name = f"{prefix}{projection}.weight"
            layer.linear[number] = self._linear(name, *shapes[name])
        return layer

    def _linear(self, name: str, inputs: int, outputs: int) -> library.Linear:
        layer = name.removesuffix(".weight")
        return library.Linear(
            weight=self._packed.address(name),
            scales=self._packed.address(f"{name}.scales"),
            bias=self._packed.address(f"{layer}.bias"),
            type=self._packed.types[layer],
            inputs=inputs,
            outputs=outputs,
        )

    def _input(self, name: str) -> library.Input:
        step = self._steps.get(name)
        return library.Input(
            shift=self._packed.address(f"{name}.shift_bias"),
            smooth=self._packed.address(f"{name}.smooth_weight"),
            step=0.0 if step is None else float(step[0]),
        )

    def _step_address(self, name: str) -> int | None:
        step = self._steps.get(name)
        return None if step is None else int(step.ctypes.data)

    def begin(self, rows: int) -> NativeDecoding:
        """Return a decoding of so many texts, of which nothing has been read yet."""
        return NativeDecoding(self, rows)

    def start(self, prompts: Sequence[Sequence[int]]) -> NativeDecoding:
        """Read prompts and return their decoding."""
        decoding = self.begin(len(prompts))
        decoding.append(prompts)
        return decoding

    def new_block(self) -> Block:
        """Return a block of keys and values, with undefined contents."""
        memory = np.empty(self._block_bytes + 64, np.uint8)
        offset = -memory.ctypes.data % 64
        memory = memory[offset : offset + self._block_bytes]
        return Block(memory, memory.ctypes.data)

    def step(
        self,
        tokens: npt.NDArray[np.int32],
        sequences: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32],
        outputs: npt.NDArray[np.int32],
        blocks: npt.NDArray[np.uint64],
        adapters: Sequence[LoraAdapter | None] | None = None,
    ) -> Floats:
        """Give the model tokens, and return logits behind some of them.

        Args:
            tokens: ``[tokens]``, int32 as all numbers here.
            sequences: of each token; those of a sequence are next to each other.
            positions: of each token, ascending in a sequence.
            outputs: indices of the tokens whose logits are returned.
            blocks: addresses of each sequence's blocks, ``[sequences, most blocks]``, uint64.
            adapters: of each sequence; None: the model's for all of them.

        Returns:
            ``[outputs, vocabulary]``.
        """
        logits = np.empty((len(outputs), self.config.llama.vocab_size), np.float32)
        adapters = adapters or [self._adapter] * len(blocks)
        addresses = None
        if any(adapters):
            addresses = np.array([each.address if each else 0 for each in adapters], np.uint64)
        batch = library.Batch(
            tokens=len(tokens),
            sequences=len(blocks),
            outputs=len(outputs),
            blocks_per_sequence=blocks.shape[1],
            token=tokens.ctypes.data,
            sequence=sequences.ctypes.data,
            position=positions.ctypes.data,
            output=outputs.ctypes.data,
            blocks=blocks.ctypes.data,
            adapter=None if addresses is None else addresses.ctypes.data,
            logits=logits.ctypes.data,
        )
        library.step(self._model, batch, self._threads, self._instructions)
        return logits


class NativeDecoding:
    """A batch of texts in the making: what the model has read, and what it makes of it.

    Args:
        model: the model.
        rows: texts in the batch.

    Attributes:
        logits: of the next token, ``[rows, vocabulary]``.
    """

    def __init__(self, model: NativeModel, rows: int) -> None:
        self._model = model
        self._lengths = [0] * rows
        self._tables: list[list[Block]] = [[] for _ in range(rows)]
        self._addresses = np.zeros((rows, 1), np.uint64)
        self.logits: Floats = np.zeros((rows, model.config.llama.vocab_size), np.float32)

    @property
    def columns(self) -> int:
        """Tokens of the longest text."""
        return max(self._lengths, default=0)

    def append(self, texts: Sequence[Sequence[int]]) -> None:
        """Give the model each text's next tokens; none is possible."""
        rows = [row for row, tokens in enumerate(texts) if len(tokens)]
        ends = np.cumsum([len(texts[row]) for row in rows]) - 1
        logits = self._run(texts, ends)
        if len(rows) == len(texts):
            self.logits = logits
        else:
            self.logits[rows] = logits

    def read(self, tokens: npt.NDArray[np.int64], is_token: npt.NDArray[np.bool_]) -> None:
        """Give the model the next tokens, ``[rows, new]``; not ``is_token`` are paddings."""
        self.append([row[valid] for row, valid in zip(tokens, is_token, strict=True)])

    def read_all(self, tokens: npt.NDArray[np.int64]) -> Floats:
        """Give the model the next tokens, ``[rows, new]``, and return the logits behind each.

        Returns:
            ``[rows x new, vocabulary]``: memory for them all.
        """
        logits = self._run(list(tokens), np.arange(tokens.size))
        new = tokens.shape[1]
        self.logits = np.ascontiguousarray(logits[new - 1 :: new])
        return logits

    def step(self, tokens: Sequence[int]) -> None:
        """Give the model the token that was chosen for every text."""
        rows = np.arange(len(tokens), dtype=np.int32)
        positions = np.array(self._lengths, np.int32)
        for row, length in enumerate(self._lengths):
            self._reserve(row, length + 1)
        self.logits = self._model.step(
            np.array(tokens, np.int32), rows, positions, rows, self._addresses
        )
        self._lengths = [length + 1 for length in self._lengths]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these texts only; one that is named more than once is continued as often."""
        tables, taken = [], set()
        for row in rows:
            table = list(self._tables[row])
            if row in taken and self._lengths[row] % BLOCK:
                # Both go on writing into the last block; the whole ones are shared.
                copy = self._model.new_block()
                copy.memory[:] = table[-1].memory
                table[-1] = copy
            taken.add(row)
            tables.append(table)
        self._lengths = [self._lengths[row] for row in rows]
        self.logits = self.logits[list(rows)]
        self._set_tables(tables)

    def join(self, other: NativeDecoding) -> None:
        """Go on with the texts of another decoding of the model as well, behind these."""
        self._lengths += other._lengths
        self.logits = np.concatenate([self.logits, other.logits])
        self._set_tables(self._tables + other._tables)

    def _set_tables(self, tables: list[list[Block]]) -> None:
        self._tables = tables
        self._addresses = np.zeros((len(tables), max([1, *map(len, tables)])), np.uint64)
        for row, table in enumerate(tables):
            self._addresses[row, : len(table)] = [block.address for block in table]

    def _reserve(self, row: int, length: int) -> None:
        """Make room for a text of so many tokens."""
        table = self._tables[row]
        while len(table) * BLOCK < length:
            block = self._model.new_block()
            if len(table) == self._addresses.shape[1]:
                grown = np.zeros((len(self._addresses), 2 * len(table)), np.uint64)
                grown[:, : len(table)] = self._addresses
                self._addresses = grown
            self._addresses[row, len(table)] = block.address
            table.append(block)

    def _run(self, texts: Sequence[Sequence[int] | Any], outputs: npt.NDArray[Any]) -> Floats:
        """Give the model each text's tokens, and return the logits behind some of all of them."""
        counts = [len(tokens) for tokens in texts]
        for row, count in enumerate(counts):
            self._reserve(row, self._lengths[row] + count)
        flat = np.array([token for tokens in texts for token in tokens], np.int32)
        rows = np.repeat(np.arange(len(texts), dtype=np.int32), counts)
        positions = np.concatenate(
            [
                np.arange(begin, begin + count, dtype=np.int32)
                for begin, count in zip(self._lengths, counts, strict=True)
            ]
        )
        parts = []
        for begin in range(0, len(flat), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            inside = outputs[(outputs >= begin) & (outputs < begin + _CHUNK)] - begin
            parts.append(
                self._model.step(
                    flat[part],
                    rows[part],
                    positions[part],
                    inside.astype(np.int32),
                    self._addresses,
                )
            )
        self._lengths = [
            length + count for length, count in zip(self._lengths, counts, strict=True)
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
