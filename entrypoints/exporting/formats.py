"""Exports in the formats of other tools."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entrypoints.exporting import card, gguf, huggingface, peft, source
from entrypoints.exporting.source import Checkpoint
from entrypoints.models.files import copy_companions, write_json
from entrypoints.models.llama import paddle_names, write_weights
from entrypoints.runtime.console import phase
from entrypoints.runtime.logging import libraries_log_to
from entrypoints.runtime.stubs import install_stubs
from paddle_stacks.errors import MachineError
from paddle_stacks.jobs.files import replacing_folder
from paddle_stacks.jobs.llama_config import from_config
from paddle_stacks.jobs.options import ExportOptions

__all__ = ["check", "check_disk", "export"]

_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "q8_0": 2}  # bytes of a weight, at the most
_MERGED = ".merged"


def check(options: ExportOptions, model: Path, adapter: Path | None) -> None:
    """Check a model and an adapter before anything is written.

    Args:
        options: of ``export``, with ``--format``.
        model: the model.
        adapter: the adapter, or None.

    Raises:
        RequestError: the format has no such model, tokenizer or adapter.
        MachineError: the disk is too small.
    """
    config = source.check_config(model)
    if options.format == "peft" and adapter:
        peft.check(adapter)
        return
    if options.format == "gguf":
        gguf.check(model)
    elif options.format == "huggingface":
        huggingface.check_tokenizer(model)
    stored = "float32" if adapter else config.get("dtype") or config.get("torch_dtype")
    precision = options.precision or (stored if stored in source.DTYPES else "float32")
    check_disk(Path(options.output), model, precision, merges=bool(adapter))


def check_disk(output: Path, model: Path, precision: str, *, merges: bool) -> None:
    """Check that the disk has space for an export.

    Args:
        output: the folder to be written.
        model: the model.
        precision: of the weights.
        merges: whether a merged model in float32 is written first.

    Raises:
        MachineError: the disk is too small.
    """
    llama = from_config(
        {key: value for key, value in source.check_config(model).items() if value is not None}
    )
    needed = llama.parameters * (_SIZES[precision] + 4 * merges)
    place = next(each for each in (output, *output.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        mib = 2**20
        raise MachineError(
            f"the export takes up to {math.ceil(needed / mib):,} MiB, and {free // mib:,} MiB are "
            "free",
            where=str(place),
            remedy="free some space, or --precision bfloat16, and start the same command again",
        )


def export(options: ExportOptions, model: Path, adapter: Path | None, output: Path) -> None:
    """Write a model or an adapter in another format; the output appears when it is complete.

    Args:
        options: of ``export``, with ``--format``.
        model: the model, or the base model of the adapter.
        adapter: the adapter, or None.
        output: the folder.

    Raises:
        RequestError: the model or the adapter is damaged, or cannot be exported.
    """
    origin = card.origin_of(model, adapter)
    form, file = options.format or "", ""
    with replacing_folder(output) as part:
        if form == "peft":
            assert adapter is not None  # ExportOptions
            phase("write the adapter")
            _start_paddle()
            peft.write(adapter, part, origin.base)
            precision = "float32"
        else:
            with _safetensors(model, adapter, part) as folder:
                checkpoint = source.read(folder)
                precision = options.precision or checkpoint.dtype
                phase(f"write {form}")
                if form == "gguf":
                    file = f"{output.name}-{gguf.SUFFIXES[precision]}.gguf"
                    gguf.write(checkpoint, part / file, precision, output.name)
                elif form == "huggingface":
                    huggingface.write(checkpoint, part, precision)
                else:
                    _write_paddle(checkpoint, part, precision)
        card.write(part, output.name, form, precision, origin, file)


@contextmanager
def _safetensors(model: Path, adapter: Path | None, part: Path) -> Iterator[Path]:
    """Yield a folder with a PaddleNLP checkpoint in safetensors, the adapter merged."""
    if adapter is None and any(model.glob("*.safetensors")):
        yield model
        return
    folder = part / _MERGED
    folder.mkdir()
    _start_paddle()
    if adapter:
        from entrypoints.training.adapter import load_adapted
        from entrypoints.training.saving import write_merged

        phase("load the model and the adapter")
        network = load_adapted(model, adapter)
        phase("merge")
        write_merged(network, (model,), folder)
        del network
    else:  # model_state.pdparams
        from entrypoints.training.saving import write_float32

        phase("load the model")
        write_float32(model, folder)
    yield folder
    shutil.rmtree(folder)


def _start_paddle() -> None:
    phase("start PaddlePaddle")
    install_stubs()
    libraries_log_to(None)
    import paddle

    # What is done here takes no card, and gives the same everywhere on the CPU.
    paddle.set_device("cpu")


def _write_paddle(checkpoint: Checkpoint, part: Path, precision: str) -> None:
    copy_companions((checkpoint.folder,), part)
    write_json(part / "config.json", {**checkpoint.config, "dtype": precision})
    tensors = []
    for weight in checkpoint.weights:
        name, transposed = paddle_names(weight.name, weight.shape)
        tensors.append(weight.tensor(precision, name, transposed=transposed))
    write_weights(part, tensors)
