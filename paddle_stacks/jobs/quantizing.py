"""Quantization methods, their configuration, and the files of a quantized model.

A CPU runs our program and a DCU upstream's. Both read upstream's keys (``QuantArgument`` of
PaddleNLP's ``llm/utils/argument.py``) and write the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import datasets, json_files, records, schema, texts, workspace
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.jobs.options import QuantizeOptions

__all__ = [
    "ACTIVATIONS",
    "CACHE",
    "DEFAULT_TEXT",
    "GROUPS",
    "REPORT",
    "Method",
    "calibration_split",
    "check",
    "dataset",
    "load",
    "output_folder",
]

ACTIVATIONS, CACHE = "act_scales.json", "cachekv_scales.json"
REPORT = "quantize.json"
DEFAULT_TEXT = texts.PREFIX + "python-stdlib"
"""The default data for calibration."""

GROUPS: dict[str, tuple[str, ...]] = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
"""The projections of a layer with the same input, by the first of them.

A DCU computes each group as one product, with one scale for its input.
"""

_TYPES = {
    "weight_only_int8": ("weight_only_int8", "wint8", "w8a16"),
    "a8w8": ("a8w8", "w8a8", "a8w8c16"),
    "a8w8c8": ("a8w8c8", "w8a8c8"),
}


@dataclass(frozen=True)
class Method:
    """A quantization method.

    Args:
        quant_type: ``weight_only_int8``, ``a8w8`` or ``a8w8c8``.
        shift: whether channels after norms are shifted.
        smooth: whether channels after norms are smoothed.
        all_linears: whether the inputs of the other projections are shifted and smoothed too.
        skipped: projections that are not quantized: parts of their names, such as
            ``self_attn.o_proj`` or ``layers.0.``.
    """

    quant_type: str
    shift: bool
    smooth: bool
    all_linears: bool
    skipped: tuple[str, ...]

    @classmethod
    def of(cls, config: schema.Config) -> Method:
        """Return the method of a configuration."""
        name = config["quant_type"].lower()
        shift, smooth = config["shift"], config["smooth"]
        return cls(
            quant_type=next(right for right, names in _TYPES.items() if name in names),
            shift=shift,
            smooth=smooth,
            all_linears=(shift and config["shift_all_linears"])
            or (smooth and config["smooth_all_linears"]),
            skipped=tuple(config["skip_list_names"] or ()),
        )

    @property
    def activations(self) -> bool:
        """Return whether activations are in 8 bits too."""
        return self.quant_type != "weight_only_int8"

    @property
    def cache(self) -> bool:
        """Return whether the KV cache is in 8 bits."""
        return self.quant_type == "a8w8c8"

    def takes(self, projection: str) -> bool:
        """Return whether a projection is quantized."""
        return not any(part in projection for part in self.skipped)


def load(options: QuantizeOptions, folder: Path = Path(), backend: str = "cpu") -> schema.Config:
    """Return the configuration of a quantization on a CPU.

    Args:
        options: the job's.
        folder: the workspace.
        backend: the backend that it will run on.

    Raises:
        RequestError: with one problem for each fault.
    """
    changes = list(options.set)
    for key, value in (("model_name_or_path", options.model), ("output_dir", options.output)):
        if value is not None:
            changes.append(f"{key}={json.dumps(value)}")
    path = folder / options.config if options.config else None
    return schema.load(path, changes, job="quantize", backend=backend)


def output_folder(config: schema.Config) -> Path:
    """Return the output folder, relative to the workspace."""
    return Path(config["output_dir"])


def check(config: schema.Config, folder: Path = Path(), *, force: bool = False) -> Path:
    """Check the files that a quantization needs, and return the model's folder.

    Args:
        config: the configuration.
        folder: the workspace.
        force: whether existing output is replaced.

    Raises:
        RequestError: with one problem for each fault.
    """
    faults: list[Problem] = []
    models: list[Path] = []
    data = config["dataset_name_or_path"] or DEFAULT_TEXT
    output = folder / output_folder(config)

    def check_data() -> None:
        if data.startswith(texts.PREFIX):
            texts.find(data)
        else:
            chosen = dataset(config, folder)
            records.check(chosen, train=calibration_split(chosen))

    checks: tuple[Callable[[], None], ...] = (
        lambda: models.append(_model(config, folder)),
        check_data,
        lambda: workspace.check_output(output, models, force=force),
    )
    for check_file in checks:
        try:
            check_file()
        except RequestError as error:
            faults += error.problems
    if faults:
        raise RequestError(faults)
    return models[0]


def _model(config: schema.Config, folder: Path) -> Path:
    model = workspace.find_trained(config["model_name_or_path"], folder)
    workspace.check_trainable(model)
    path = model / "config.json"
    values = json_files.read_object(
        path,
        message="not a model's configuration",
        remedy="fetch the model again: ./inv fetch NAME --force",
    )
    names = values.get("architectures")
    if names != ["LlamaForCausalLM"]:
        shown = ", ".join(map(str, names)) if isinstance(names, list) else names
        message = f'a CPU quantizes LlamaForCausalLM, not "{shown}"'
        remedy = "upstream's program quantizes others on a DCU: --backend dcu"
        raise RequestError(message, where=str(path), remedy=remedy)
    return model


def dataset(config: schema.Config, here: Path = Path()) -> Dataset:
    """Return the data set of a quantization, of which some records are always held out.

    Args:
        config: of the job.
        here: the folder that relative paths start in.

    Raises:
        RequestError: the configuration names it wrongly.
    """
    return Dataset(
        Dataset.parse_sources(config["dataset_name_or_path"], here),
        datasets.columns_of(config["data_columns"] or ""),
        config["dev_ratio"],
        config["seed"],
    )


def calibration_split(data: Dataset) -> str:
    """Return the split for calibration: ``quant`` if it exists, else ``train``."""
    has = all(datasets.has_files(source.path, "quant") for source in data.sources)
    return "quant" if has else "train"
