"""The ``data`` job: what fine-tuning would learn from a data set, and its conversion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entrypoints.finetuning import data_report
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import note, phase, report, say
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from paddle_stacks.jobs import chat_templates, records, schema, workspace
from paddle_stacks.jobs.data_request import config_of
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.jobs.files import remove_unfinished, replacing_folder
from paddle_stacks.jobs.options import DataOptions
from paddle_stacks.jobs.records import Record

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the job; the report, or the folder of the conversion, goes to standard output."""
    arguments = parse(DataOptions, argv)
    config = config_of(arguments)
    dataset = Dataset.from_config(config)
    model = workspace.find_model(arguments.model) if arguments.model else None
    phase("check the data")
    counts = records.check(dataset, dev=config["do_eval"])
    if arguments.convert:
        _convert(dataset, counts, Path(arguments.convert), force=arguments.force)
        return 0
    encoders = _encoders(model, config) if model else None
    if encoders:
        phase("tokenize")
    splits = ("train", "dev") if config["do_eval"] else ("train",)
    summaries = {split: data_report.summarize(dataset, split, encoders) for split in splits}
    for line in data_report.lines(arguments.dataset, dataset, counts, summaries):
        say(line)
    for line in data_report.samples(dataset, arguments.samples, summaries["train"], encoders):
        say(line)
    if not encoders:
        note("--model NAME shows tokens, and the samples in the model's chat template")
    return 0


def _encoders(model: Path, config: schema.Config) -> data_report.Encoders:
    template = chat_templates.named(config)
    from entrypoints.runtime.logging import libraries_log_to

    libraries_log_to(None)
    from entrypoints.models.tokenizer import load_tokenizer
    from entrypoints.training.data import Encoder

    chat = config["chat_template"] != chat_templates.NO_TEMPLATE
    tokenizer = load_tokenizer(model, template, chat=chat)
    whole = 2**31  # tokens: nothing is cut
    return data_report.Encoders(
        tokenizer,
        Encoder(tokenizer, whole, whole),
        Encoder(tokenizer, config["src_length"], config["max_length"]),
        config["src_length"],
        config["max_length"],
    )


def _convert(dataset: Dataset, counts: records.Counts, output: Path, *, force: bool) -> None:
    """Write the data set as a folder of ``train.json`` and ``dev.json``."""
    sources = [source.path for source in dataset.sources]
    workspace.check_output(output, sources, force=force)
    phase("convert")
    with writing_below(output), locked(output.parent, f".{output.name}.lock"):
        remove_unfinished(output)
        workspace.check_output(output, sources, force=force)
        with replacing_folder(output) as part:
            splits = {"train": counts.train, "dev": counts.dev}
            for split in (name for name, count in splits.items() if count):
                with (part / f"{split}.json").open("w", encoding="utf-8") as stream:
                    stream.writelines(_json_lines(records.read(dataset, split)))
    for text in counts.notes(dataset.seed):
        note(text)
    report("result", output=str(output), train=counts.train, dev=counts.dev)
    print(output)


def _json_lines(entries: Iterator[Record]) -> Iterator[str]:
    """Yield records in PaddleNLP's format, which upstream's own program reads too."""
    for record in entries:
        several = len(record.src) > 1
        value: dict[str, Any] = {
            "src": list(record.src) if several else record.src[0],
            "tgt": list(record.tgt) if several else record.tgt[0],
        }
        context = dict(record.context)
        if record.system is not None:
            context["system"] = record.system
        if context:
            value["context"] = context
        yield json.dumps(value, ensure_ascii=False) + "\n"
