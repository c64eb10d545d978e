"""Execution of a fine-tuning request."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from entrypoints.cpu import kernels
from entrypoints.finetuning import batches, model, packing
from entrypoints.finetuning.request import Request
from entrypoints.finetuning.trainer import Finetuner
from entrypoints.models.tokenizer import load_tokenizer
from entrypoints.runtime.console import note, phase, report
from entrypoints.runtime.stop import StopSignal
from entrypoints.training import data, plot, saving, unified
from entrypoints.training.adapter import trainable_parameters
from entrypoints.training.data_shard import DataShard
from entrypoints.training.loop import Arguments, RunOutputs, arguments
from entrypoints.training.metrics import Metrics, peak_memory_mib
from entrypoints.training.request import LOSS, METRICS, RESULT
from paddle_stacks.errors import RequestError, Stopped
from paddle_stacks.jobs import records, workspace
from paddle_stacks.jobs.chat_templates import NO_TEMPLATE
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.jobs.schema import Config

__all__ = ["train"]


def train(request: Request, stop: StopSignal) -> Path:
    """Train, finish the run, and return the folder of the model or adapter.

    Raises:
        RequestError: the data or the model does not fit the configuration.
        JobError: the loss is not finite.
        Stopped: a signal was received; a checkpoint is saved.
    """
    began = time.monotonic()
    config = request.config
    tokenizer = load_tokenizer(
        request.tokenizer,
        request.template[0] if request.template else None,
        chat=config["chat_template"] != NO_TEMPLATE,
    )
    settings = _settings(request)
    phase("tokenize")
    train_batches, dev_batches = _batches(request, tokenizer, settings)
    phase("load the model")
    trainer, metrics = _trainer(request, settings, tokenizer, train_batches, dev_batches, stop)
    phase("train")
    stop.defer()
    trainer.train(resume_from_checkpoint=str(request.resume.folder) if request.resume else None)
    if trainer.is_first:
        plot.draw(metrics.entries(), request.run.name, request.run / LOSS)
    if stop.received is not None and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped(
            stop.received,
            f"stopped after step {trainer.state.global_step}, which is saved",
            "run the same command again to resume",
        )
    phase("save")
    output = _save(trainer, request)
    if trainer.is_first:
        _finish(request, metrics, output, trainer.state, time.monotonic() - began)
    return output


def _settings(request: Request) -> Arguments:
    """Return upstream's arguments; creating them connects the processes."""
    import paddle

    config, resume = request.config, request.resume
    paddle.set_device(config["device"])
    if config["device"] == "cpu":
        kernels.install()
    # In one process, PaddleNLP 3.0.0b3 always writes unified checkpoints in float32. Those of
    # several processes can be loaded in one as well (entrypoints/training/unified.py).
    is_unified = resume is not None and unified.is_unified(resume.folder)
    if resume is not None and request.world > 1 and not is_unified:
        raise RequestError(
            "a checkpoint of one process can only be resumed in one process",
            where=str(resume.folder),
            remedy="resume without --ranks, or start the run again: --resume never",
        )
    several = request.world > 1 or is_unified
    return arguments(config, request.run, unified_checkpoint=several)


def _batches(
    request: Request, tokenizer: Any, settings: Arguments
) -> tuple[batches.Batches, batches.Batches | None]:
    config = request.config
    staged = settings.pipeline_parallel_degree > 1
    tensors = model.as_stage_tensors if staged else model.as_tensors
    shard = DataShard(settings.dataset_rank, settings.dataset_world_size)
    padding = batches.Padding(
        token=tokenizer.pad_token_id,
        multiple_of=config["pad_to_multiple_of"] or 1,
        # Pipeline stages exchange the shapes of their tensors only once.
        length=config["max_length"] if config["pad_to_max_length"] or staged else None,
    )
    rows = _rows(request, tokenizer, "train")
    train_batches = batches.Batches(
        rows,
        config["per_device_train_batch_size"],
        padding,
        seed=config["seed"],
        accumulation=config["gradient_accumulation_steps"],
        convert=lambda batch: {**tensors(batch), "tokens": batch.tokens},
        shard=shard,
    )
    _report_unused_batches(train_batches, config, shard)
    if not config["do_eval"]:
        return train_batches, None
    dev_batches = batches.Batches(
        _rows(request, tokenizer, "dev"),
        1 if staged else config["per_device_eval_batch_size"],
        padding,
        convert=tensors,
        shard=shard,
    )
    return train_batches, dev_batches


def _rows(request: Request, tokenizer: Any, split: str) -> packing.Rows:
    config = request.config
    encoder = data.Encoder(tokenizer, config["src_length"], config["max_length"])
    encoded = encoder.encode_all(records.read(Dataset.from_config(config), split), request.run)
    count = len(encoded.examples)
    tokens = labels = 0
    for example in encoded.examples:
        tokens += len(example.input_ids)
        labels += sum(label != data.IGNORED for label in example.labels)
    text = f"{split}: {count} records, {tokens} tokens, {labels} of them in answers"
    if encoded.cut:
        limits = f"src_length {config['src_length']}, max_length {config['max_length']}"
        text += f"; {encoded.cut} records cut ({limits})"
    if encoded.dropped:
        text += f"; {encoded.dropped} dropped, because nothing of their answers remained"
    if not count:
        raise RequestError(
            f"no record of the {split} data has any of its answer left after truncation",
            where=config["dataset_name_or_path"],
            remedy='raise "max_length"',
        )
    if config["zero_padding"]:
        packed = packing.pack(
            encoded.examples, config["max_length"], greedy=config["greedy_zero_padding"]
        )
        note(f"{text}; packed into {len(packed)} rows")
        return packed
    note(text)
    return packing.rows(encoded.examples)


def _report_unused_batches(
    train_batches: batches.Batches, config: Config, shard: DataShard
) -> None:
    size = config["per_device_train_batch_size"]
    left = -(-len(train_batches.rows) // size) - len(train_batches) * shard.world
    if left:
        accumulation = config["gradient_accumulation_steps"] * shard.world
        note(
            f"each epoch omits {left} batches, different ones every time, because a step takes "
            f"{accumulation} batches"
        )


def _trainer(
    request: Request,
    settings: Arguments,
    tokenizer: Any,
    train_batches: batches.Batches,
    dev_batches: batches.Batches | None,
    stop: StopSignal,
) -> tuple[Finetuner, Metrics]:
    from paddlenlp.trainer import set_seed

    config = request.config
    set_seed(config["seed"])
    network = model.load_model(request.base, config, settings)
    if config["lora"]:
        network = model.add_lora(network, request.base, request.adapter, config)
    if config["neftune"]:
        model.add_noise(network, config["neftune_noise_alpha"])
    trained = sum(p.size for _, p in trainable_parameters(network))
    whole = sum(p.size for p in network.parameters())
    note(f"training {trained:,} of {whole:,} parameters ({trained / whole:.2%})")
    step = request.resume.step if request.resume else 0
    metrics = Metrics(request.run / METRICS, step, writes=settings.process_index == 0)
    trainer = Finetuner(
        network,
        settings,
        None if config["lora"] else tokenizer,
        train=train_batches,
        dev=dev_batches,
        outputs=RunOutputs(metrics, stop, request.fingerprints, config["save_total_limit"]),
    )
    return trainer, metrics


def _save(trainer: Finetuner, request: Request) -> Path:
    """Save the model or adapter, and return its folder."""
    network = trainer.model
    companions = (request.base, request.tokenizer, *request.template)
    if not request.config["lora"]:
        output = request.run / workspace.MODEL
        saving.save_distributed(trainer, companions, output)
        return output
    output = request.run / workspace.ADAPTER
    saving.save_distributed_adapter(trainer, request.base, output)
    if request.config["merge"]:
        phase("merge")
        saving.save_merged(network, companions, request.run / workspace.MERGED)
    return output


def _finish(request: Request, metrics: Metrics, output: Path, state: Any, seconds: float) -> None:
    losses = [entry["loss"] for entry in metrics.entries() if "loss" in entry]
    evaluations = [entry for entry in metrics.entries() if "eval_loss" in entry]
    result: dict[str, Any] = {"output": str(output), "steps": state.global_step}
    if losses:
        result |= {"first_loss": losses[0], "last_loss": losses[-1]}
    if evaluations:
        result |= {
            key: evaluations[-1][key]
            for key in ("eval_loss", "eval_accuracy")
            if key in evaluations[-1]
        }
    if state.best_model_checkpoint and request.config["load_best_model_at_end"]:
        result |= {"best_checkpoint": Path(state.best_model_checkpoint).name}
    result |= {"memory_mib": peak_memory_mib(), "seconds": round(seconds, 1)}
    with replacing_file(request.run / RESULT) as stream:
        json.dump(result, stream, indent=2)
        stream.write("\n")
    report("result", **result)
