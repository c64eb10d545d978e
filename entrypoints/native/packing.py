"""Weights in the layout that the engine reads, packed once and mapped by every process.

The packed file lies beside the checkpoint: ``.native.fp32``, ``.native.bf16`` or
``.native.int8``. Its header has the format's version, what it was packed from and where each
array is, and its own SHA-256; arrays follow, aligned to cache lines. The file appears when it is
whole. Where the folder is read-only, weights are packed in memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.inference import quantized
from entrypoints.inference.weights import Weights
from entrypoints.models.int8 import LARGEST
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.native.config import NativeConfig
from entrypoints.native.library import PANEL, PROJECTIONS, Type
from entrypoints.runtime.console import note
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import quantizing, workspace
from paddle_stacks.jobs.files import replacing_file

__all__ = [
    "PRECISIONS",
    "Packed",
    "group_quantized",
    "group_scales",
    "open_packed",
    "pack_linear",
    "stored_precision",
]

PRECISIONS = ("fp32", "bf16", "int8")

FORMAT = 1
_MAGIC = b"PSNATIVE"
_PREFIX = struct.Struct("<8sI4xQ32s")  # magic, format, length and SHA-256 of the header
_ALIGNMENT = 64
_GROUP = 32  # inputs that share a scale
_LISTED = 5
_SAMPLES, _SAMPLE_BYTES = 16, 2**14

EMBEDDING, HEAD, NORM = "llama.embed_tokens.weight", "lm_head.weight", "llama.norm.weight"
_NORMS = ("input_layernorm", "post_attention_layernorm")
_INPUTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Entry:
    """An array of the packed file.

    Args:
        name: its key.
        size: bytes.
        fill: writes it into memory of that size.
    """

    name: str
    size: int
    fill: Callable[[npt.NDArray[np.uint8]], None]


@dataclass(frozen=True)
class Packed:
    """A model's packed weights.

    Args:
        types: of each linear layer, by PaddleNLP's name without ``.weight``.
        arrays: by name: bytes.
        path: the file they are mapped from; None where they are packed in memory.
    """

    types: Mapping[str, int]
    arrays: Mapping[str, npt.NDArray[np.uint8]]
    path: Path | None = field(default=None)

    def address(self, name: str) -> int | None:
        """Return where an array is; None if there is none of that name."""
        array = self.arrays.get(name)
        return None if array is None else int(array.ctypes.data)


def stored_precision(weights: Weights) -> str:
    """Return the precision that a checkpoint's weights are stored in.

    float16 counts as ``fp32``: bfloat16 has fewer digits.
    """
    types = {weights.as_stored(name).dtype for name in weights if name.endswith("_proj.weight")}
    if "I8" in types:
        return "int8"
    return "bf16" if types == {"BF16"} else "fp32"


def open_packed(
    config: NativeConfig, weights: Weights, precision: str, *, save: bool = True
) -> Packed:
    """Return a checkpoint's packed weights; pack them where that was not done yet.

    Args:
        config: the model's.
        weights: the checkpoint's.
        precision: one of :data:`PRECISIONS`. Weights that are in eight bits stay so.
        save: whether they are written beside the checkpoint; otherwise they stay in memory.

    Raises:
        RequestError: the weights are not those of the configuration.
    """
    plan = _Plan(config, weights, precision)
    source = _fingerprint(weights.folder)
    path = weights.folder / f".native.{precision}"
    if mapped := _mapped(path, plan, source):
        return Packed(plan.types, mapped, path)
    if save:
        try:
            _write(path, plan, source)
        except OSError as error:
            note(f"weights are packed in memory: {path.parent} {_reason(error)}")
        else:
            note(f"packed the weights into {path}")
            if mapped := _mapped(path, plan, source):
                return Packed(plan.types, mapped, path)
    memory = np.frombuffer(mmap.mmap(-1, plan.size(0)), np.uint8)
    return Packed(plan.types, plan.fill(memory, 0))


def _reason(error: OSError) -> str:
    return f"cannot be written to ({error.strerror})"


class _Plan:
    """The contents of a packed file.

    Attributes:
        types: as in :class:`Packed`.
        entries: the arrays, in the file's order.
    """

    def __init__(self, config: NativeConfig, weights: Weights, precision: str) -> None:
        _check(config, weights)
        self._config = config
        self._weights = weights
        self._precision = precision
        if precision == "int8" and stored_precision(weights) == "int8":
            # What `quantize` left as it was stays so: the embedding and the head.
            self._precision = "bf16" if weights.as_stored(EMBEDDING).dtype == "BF16" else "fp32"
        self.types: dict[str, int] = {}
        self.entries: list[_Entry] = []
        self._extra = quantized.extra_weights(weights)
        self._add_rotation()
        if not config.llama.tie_word_embeddings:
            self._add_embedding()
        for layer in range(config.llama.num_hidden_layers):
            self._add_layer(f"llama.layers.{layer}.")
        self._add_vector(NORM, NORM)
        self._add_linear(
            EMBEDDING if config.llama.tie_word_embeddings else HEAD,
            transposed=config.llama.tie_word_embeddings,
        )

    def offsets(self, begin: int) -> dict[str, tuple[int, int]]:
        """Return each array's offset and size, for a header that ends at ``begin``."""
        places = {}
        for entry in self.entries:
            begin = _aligned(begin)
            places[entry.name] = (begin, entry.size)
            begin += entry.size
        return places

    def size(self, begin: int) -> int:
        """Return the size of a file whose header ends at ``begin``."""
        offset, size = list(self.offsets(begin).values())[-1]
        return offset + size

    def fill(self, memory: npt.NDArray[np.uint8], begin: int) -> dict[str, npt.NDArray[np.uint8]]:
        """Pack everything into memory, and return the arrays in it."""
        arrays = self.arrays(memory, begin)
        # NumPy lets others run while it copies.
        with ThreadPoolExecutor(int(os.environ.get("OMP_NUM_THREADS", "1"))) as pool:
            for done in [pool.submit(e.fill, arrays[e.name]) for e in self.entries]:
                done.result()
        return arrays

    def arrays(self, memory: npt.NDArray[np.uint8], begin: int) -> dict[str, npt.NDArray[np.uint8]]:
        """Return the arrays that lie in memory."""
        places = self.offsets(begin).items()
        return {name: memory[offset : offset + size] for name, (offset, size) in places}

    def _add(self, name: str, size: int, make: Callable[[], Array]) -> None:
        def fill(memory: npt.NDArray[np.uint8]) -> None:
            array = make()
            memory[:] = array.reshape(-1).view(np.uint8)

        self.entries.append(_Entry(name, size, fill))

    def _add_vector(self, name: str, source: str) -> None:
        size = _padded(self._weights.shape(source)[0])
        self._add(name, size * 4, lambda: padded_vector(self._weights[source]))

    def _add_rotation(self) -> None:
        config = self._config
        size = config.llama.max_position_embeddings * config.llama.head_dim // 2 * 4
        self._add("cos", size, lambda: config.rotary_tables()[0])
        self._add("sin", size, lambda: config.rotary_tables()[1])

    def _add_embedding(self) -> None:
        count = int(np.prod(self._weights.shape(EMBEDDING)))
        if self._precision == "fp32":
            self.types[EMBEDDING] = Type.FLOAT32
            self._add(EMBEDDING, count * 4, lambda: np.ascontiguousarray(self._weights[EMBEDDING]))
        else:
            self.types[EMBEDDING] = Type.BFLOAT16
            self._add(EMBEDDING, count * 2, lambda: _bfloat16_of(self._weights, EMBEDDING))

    def _add_layer(self, prefix: str) -> None:
        for norm in _NORMS:
            self._add_vector(f"{prefix}{norm}.weight", f"{prefix}{norm}.weight")
        for projection in PROJECTIONS:
            self._add_linear(f"{prefix}{projection}.weight")
        for name, source in self._extra.items():
            if name.startswith(prefix):
                self._add_vector(name, source)

    def _add_linear(self, name: str, *, transposed: bool = False) -> None:
        weights = self._weights
        inputs, outputs = weights.shape(name)[:: -1 if transposed else 1]
        kind = _type(weights.as_stored(name).dtype, self._precision)
        self.types[name.removesuffix(".weight")] = kind
        columns = _padded(outputs)
        size = columns * inputs * _ITEM_BYTES[kind]
        groups = {Type.INT8: 1, Type.INT8_GROUP32: -(-inputs // _GROUP)}.get(kind)

        def oriented(array: Array) -> Array:
            return array.T if transposed else array

        if kind == Type.INT8:
            raw = partial(_raw, weights, name)
            self._add(name, size, lambda: _panels(oriented(raw().view(np.int8))))
            scales = weights.scales(name)
            self._add(
                f"{name}.scales",
                columns * 4,
                lambda: padded_vector(scales / np.float32(LARGEST)),
            )
            return
        if kind == Type.INT8_GROUP32:
            assert groups is not None
            self._add_groups(name, size, columns * groups * 4, oriented)
            return
        if kind == Type.BFLOAT16:
            self._add(name, size, lambda: _pairs(oriented(_bfloat16_of(weights, name))))
        else:
            self._add(name, size, lambda: _panels(oriented(weights[name])))

    def _add_groups(
        self, name: str, size: int, scales_size: int, oriented: Callable[[Array], Array]
    ) -> None:
        """Add a weight in eight bits and the scales of its groups."""

        def floats() -> Floats:
            return oriented(self._weights[name])

        self._add(name, size, lambda: _panels(group_quantized(floats())))
        self._add(f"{name}.scales", scales_size, lambda: _panels(group_scales(floats())))


_ITEM_BYTES = {Type.FLOAT32: 4, Type.BFLOAT16: 2, Type.INT8: 1, Type.INT8_GROUP32: 1}


def _type(dtype: str, precision: str) -> int:
    """Return the type that a weight is packed in."""
    if dtype == "I8":
        return Type.INT8
    return {"fp32": Type.FLOAT32, "bf16": Type.BFLOAT16, "int8": Type.INT8_GROUP32}[precision]


def pack_linear(weight: Floats) -> Array:
    """Return a weight of float32, ``[inputs, outputs]``, in panels."""
    return _panels(weight)


def group_scales(weight: Floats) -> Floats:
    """Return the scale of each output and 32 inputs, ``[groups, outputs]``.

    Args:
        weight: ``[inputs, outputs]``.
    """
    largest = [np.abs(weight[at : at + _GROUP]).max(axis=0) for at in _groups(weight)]
    return np.array(largest) / np.float32(LARGEST)


def group_quantized(weight: Floats) -> npt.NDArray[np.int8]:
    """Return a weight in eight bits: whole numbers that stand for so many times their scale."""
    numbers = np.empty(weight.shape, np.int8)
    for at, scales in zip(_groups(weight), group_scales(weight), strict=True):
        part = weight[at : at + _GROUP] / np.where(scales == 0, np.float32(1), scales)
        numbers[at : at + _GROUP] = np.rint(part, out=part)
    return numbers


def _groups(weight: Floats) -> range:
    return range(0, len(weight), _GROUP)


def padded_vector(vector: Floats) -> Floats:
    """Return a vector as float32, padded with zeros to whole panels."""
    array = np.zeros(_padded(vector.shape[0]), np.float32)
    array[: vector.shape[0]] = vector
    return array


def _panels(matrix: Array) -> Array:
    """Return ``[rows, columns]`` as ``[panels, rows, 32]``, padded with zeros."""
    rows, columns = matrix.shape
    whole = columns // PANEL
    panels = np.zeros((_padded(columns) // PANEL, rows, PANEL), matrix.dtype)
    inner = matrix[:, : whole * PANEL].reshape(rows, whole, PANEL)
    panels[:whole] = inner.transpose(1, 0, 2)
    if whole < len(panels):
        panels[whole, :, : columns - whole * PANEL] = matrix[:, whole * PANEL :]
    return panels


def _pairs(matrix: npt.NDArray[np.uint16]) -> Array:
    """Return bfloat16 in panels whose halves are interleaved."""
    panels = _panels(matrix)
    halves = panels.reshape(*panels.shape[:2], 2, PANEL // 2)
    return np.ascontiguousarray(halves.transpose(0, 1, 3, 2))


def _bfloat16_of(weights: Weights, name: str) -> npt.NDArray[np.uint16]:
    """Return a weight as bfloat16, rounded to the nearest, ties to even."""
    stored = weights.as_stored(name)
    if stored.dtype == "BF16":
        return np.asarray(stored.values())
    bits = np.ascontiguousarray(weights[name]).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _raw(weights: Weights, name: str) -> Array:
    return np.ascontiguousarray(weights.as_stored(name).values())


def _padded(size: int) -> int:
    return -(-size // PANEL) * PANEL


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


# ------------------------------------------------------------------------------- files


def _mapped(
    path: Path, plan: _Plan, source: Mapping[str, Any]
) -> dict[str, npt.NDArray[np.uint8]] | None:
    """Return the arrays of a packed file; None unless it is whole and of this very checkpoint."""
    try:
        with path.open("rb") as stream:
            prefix = stream.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                return None
            magic, version, length, digest = _PREFIX.unpack(prefix)
            if (magic, version) != (_MAGIC, FORMAT) or length > 2**26:
                return None
            header = stream.read(length)
            if hashlib.sha256(header).digest() != digest:
                return None
            begin = _PREFIX.size + length
            # The places are those that the configuration leads to, whatever the file says.
            if header != _header(plan, source) or os.fstat(stream.fileno()).st_size != plan.size(
                begin
            ):
                return None
            # Pages that the kernel has are mapped at once instead of one by one.
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            mapping = mmap.mmap(stream.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
    except OSError:
        return None
    return plan.arrays(np.frombuffer(mapping, np.uint8), begin)


def _header(plan: _Plan, source: Mapping[str, Any]) -> bytes:
    sizes = {entry.name: entry.size for entry in plan.entries}
    header = {"source": source, "types": plan.types, "sizes": sizes}
    return json.dumps(header, sort_keys=True).encode()


def _write(path: Path, plan: _Plan, source: Mapping[str, Any]) -> None:
    """Write a packed file, which appears when it is whole.

    Raises:
        OSError: the folder is read-only, or the disk is full.
    """
    header = _header(plan, source)
    begin = _PREFIX.size + len(header)
    size = plan.size(begin)
    with replacing_file(path, "wb") as stream:
        # Beforehand: a full disk would end the process when it writes to a mapping.
        os.posix_fallocate(stream.fileno(), 0, size)
        mapping = mmap.mmap(stream.fileno(), size)
        digest = hashlib.sha256(header).digest()
        mapping[:begin] = _PREFIX.pack(_MAGIC, FORMAT, len(header), digest) + header
        plan.fill(np.frombuffer(mapping, np.uint8), begin)
        mapping.flush()


def _fingerprint(folder: Path) -> dict[str, Any]:
    """Return what tells a checkpoint from another one: sizes, dates, and samples of its files."""
    names = ["config.json", workspace.WEIGHT_SCALES, quantizing.ACTIVATIONS, quantizing.CACHE]
    paths = [folder / name for name in names if (folder / name).is_file()]
    paths += sorted(folder.glob("*.safetensors"))
    return {
        path.name: [path.stat().st_size, path.stat().st_mtime_ns, _sampled(path)] for path in paths
    }


def _sampled(path: Path) -> str:
    """Return the SHA-256 of a small file, or of pieces of a large one."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(stream.read())
        else:
            for number in range(_SAMPLES):
                stream.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _check(config: NativeConfig, weights: Weights) -> None:
    """Refuse a checkpoint whose weights are not those of its configuration.

    Raises:
        RequestError: weights are missing, of another shape, or unknown.
    """
    shapes = paddle_weight_shapes(config.llama)
    faults = []
    for name, shape in shapes.items():
        if name not in weights:
            faults.append(f"the weight {name} is missing")
        elif weights.shape(name) != shape:
            faults.append(
                f"the weight {name} is {list(weights.shape(name))}, and config.json makes it"
                f" {list(shape)}"
            )
    faults += _extra_faults(config, weights)
    expected = {*shapes, *quantized.extra_weights(weights).values(), HEAD}
    faults += [
        f"the weight {name} is not one that the native engine uses"
        for name in weights
        if name not in expected
    ]
    if faults:
        more = [f"and {len(faults) - _LISTED} more of the kind"] if len(faults) > _LISTED else []
        remedy = "fetch the model again: its weights and its config.json do not belong together"
        where = str(weights.folder)
        raise RequestError([Problem(fault, where, remedy) for fault in faults[:_LISTED] + more])


def _extra_faults(config: NativeConfig, weights: Weights) -> list[str]:
    """Return what is wrong with the weights that shifting and smoothing leave."""
    shapes = paddle_weight_shapes(config.llama)
    faults = []
    for name, source in quantized.extra_weights(weights).items():
        layer, _, kind = name.rpartition(".")
        part = layer.split(".", 3)[-1]
        takes = _INPUTS if kind in ("shift_bias", "smooth_weight") else (*PROJECTIONS, *_NORMS)
        size = shapes.get(f"{layer}.weight", (0,))
        expected = size[0] if kind in ("shift_bias", "smooth_weight") else size[-1]
        if part not in takes:
            faults.append(f"the weight {source} is not one that the native engine uses")
        elif weights.shape(source) != (expected,):
            faults.append(f"the weight {source} is {list(weights.shape(source))}, not [{expected}]")
    return faults
