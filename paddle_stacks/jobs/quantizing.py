"""What ``quantize`` is asked for, and the files of a model that was quantized.

On a CPU it is the program of ours; a card runs upstream's. Both take upstream's keys
(``QuantArgument`` of PaddleNLP's ``llm/utils/argument.py``) and leave the same layout.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import datasets, json_files, records, schema, texts, workspace
from paddle_stacks.jobs.arguments import PARSERS
from paddle_stacks.jobs.datasets import Dataset

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
"""What a model is calibrated on where nobody names data."""

GROUPS: dict[str, tuple[str, ...]] = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
"""The projections of a layer that take the same input, by the first of them.

A card computes each group as one product, with one scale for what enters it.
"""

_TYPES = {
    "weight_only_int8": ("weight_only_int8", "wint8", "w8a16"),
    "a8w8": ("a8w8", "w8a8", "a8w8c16"),
    "a8w8c8": ("a8w8c8", "w8a8c8"),
}


@dataclass(frozen=True)
class Method:
    """How a model is quantized.

    Args:
        quant_type: ``weight_only_int8``, ``a8w8`` or ``a8w8c8``, however it was spelt.
        shift: whether channels are shifted, behind norms.
        smooth: whether channels are smoothed, behind norms.
        all_linears: whether also what enters the other projections is shifted and smoothed.
        skipped: projections that stay as they are, as ``self_attn.o_proj`` or
            ``layers.0.``: parts of their names.
    """

    quant_type: str
    shift: bool
    smooth: bool
    all_linears: bool
    skipped: tuple[str, ...]

    @classmethod
    def of(cls, config: schema.Config) -> Method:
        """Return the method that a configuration asks for."""
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
        """Whether what enters a product is in eight bits too."""
        return self.quant_type != "weight_only_int8"

    @property
    def cache(self) -> bool:
        """Whether keys and values are in eight bits."""
        return self.quant_type == "a8w8c8"

    def takes(self, projection: str) -> bool:
        """Return whether a projection is quantized."""
        return not any(part in projection for part in self.skipped)


def load(
    arguments: argparse.Namespace, folder: Path = Path(), backend: str = "cpu"
) -> schema.Config:
    """Return the configuration that the arguments of ``quantize`` make.

    Args:
        arguments: the job's.
        folder: the workspace.
        backend: where it will run.

    Raises:
        RequestError: with one problem for each fault.
    """
    usual = PARSERS["quantize"]()
    spread = ("ranks", "nnodes", "master", "rank", "allow_bf16", "name")
    given = [
        f"--{key.replace('_', '-')}"
        for key in spread
        if getattr(arguments, key) != usual.get_default(key)
    ]
    if given:
        raise RequestError(
            "a CPU quantizes in one process, which keeps no log",
            where=", ".join(given),
            remedy="leave it out; it is for upstream's program, on a card",
        )
    changes = list(arguments.set)
    for key, value in (("model_name_or_path", arguments.model), ("output_dir", arguments.output)):
        if value is not None:
            changes.append(f"{key}={json.dumps(value)}")
    path = folder / arguments.config if arguments.config else None
    return schema.load(path, changes, job="quantize", backend=backend)


def output_folder(config: schema.Config) -> Path:
    """Return the folder that is made, relative to the workspace."""
    return Path(config["output_dir"])


def check(config: schema.Config, folder: Path = Path(), *, force: bool = False) -> Path:
    """Check what a quantization needs of the workspace, and return the model's folder.

    Args:
        config: what is asked for.
        folder: the workspace.
        force: whether the output may be replaced.

    Raises:
        RequestError: with one problem for each fault.
    """
    faults: list[Problem] = []
    found: list[Path] = []
    data = config["dataset_name_or_path"] or DEFAULT_TEXT
    output = folder / output_folder(config)

    def check_data() -> None:
        if data.startswith(texts.PREFIX):
            texts.find(data)
        else:
            chosen = dataset(config, folder)
            records.check(chosen, train=calibration_split(chosen))

    looks: tuple[Callable[[], None], ...] = (
        lambda: found.append(_model(config, folder)),
        check_data,
        lambda: workspace.check_output(output, found, force=force),
    )
    for look in looks:
        try:
            look()
        except RequestError as error:
            faults += error.problems
    if faults:
        raise RequestError(faults)
    return found[0]


def _model(config: schema.Config, folder: Path) -> Path:
    model = workspace.find_trained(config["model_name_or_path"], folder)
    workspace.check_trainable(model)
    path = model / "config.json"
    about = json_files.read_object(
        path,
        what="not a model's configuration",
        remedy="fetch the model again: ./inv fetch NAME --force",
    )
    names = about.get("architectures")
    if names != ["LlamaForCausalLM"]:
        shown = ", ".join(map(str, names)) if isinstance(names, list) else names
        what = f'a CPU quantizes LlamaForCausalLM, not "{shown}"'
        remedy = "upstream's program quantizes others, on a card: --backend dcu"
        raise RequestError(what, where=str(path), remedy=remedy)
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
    """Return the split that a model is calibrated on: ``quant``, and ``train`` without it."""
    has = all(datasets.has_files(source.path, "quant") for source in data.sources)
    return "quant" if has else "train"
