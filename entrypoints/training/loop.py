"""The training loop: PaddleNLP's ``Trainer`` with this project's metrics, stops and checkpoints.

It runs in one process or in several, each with a part of the model, of the data, or of both.
Only the first one writes files, and all of them make decisions together.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import distributed
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments
from paddlenlp.trainer.trainer_callback import PrinterCallback
from paddlenlp.transformers.configuration_utils import llmmetaclass

from entrypoints.runtime.console import note, report
from entrypoints.runtime.stop import StopSignal
from entrypoints.training import checkpoints, unified
from entrypoints.training.metrics import Metrics, peak_memory_mib
from entrypoints.training.saving import operating_system_errors
from paddle_stacks.errors import JobError
from paddle_stacks.jobs.schema import Config

__all__ = ["Arguments", "Loop", "RunOutputs", "arguments"]


@dataclass
@llmmetaclass
class Arguments(TrainingArguments):  # type: ignore[misc]
    """Upstream's training arguments with those of its language models."""

    decay_steps: int = 0


def arguments(config: Config, run: Path, *, unified_checkpoint: bool = False) -> Arguments:
    """Return upstream's arguments for a configuration, with the settings that are fixed here.

    Args:
        config: of the training.
        run: the run's folder.
        unified_checkpoint: whether checkpoints can be loaded in another layout.
    """
    names = {field.name for field in dataclasses.fields(Arguments)}
    taken = {name: config[name] for name in config.explicit if name in names}
    taken |= {name: config[name] for name in ("do_train", "do_eval", "device", "eval_steps")}
    if config["device"] == "cpu" and config["pipeline_parallel_degree"] > 1:
        # Gloo cannot send parts of tensors, which pipeline stages with tensor parallelism do.
        words = {*config["pipeline_parallel_config"].split(), "disable_partial_send_recv"}
        taken["pipeline_parallel_config"] = " ".join(sorted(words))
    return Arguments(
        **{
            **taken,
            "output_dir": str(run),
            "disable_tqdm": True,
            "report_to": [],
            "save_total_limit": None,  # old checkpoints are removed after the new one is renamed
            "resume_from_checkpoint": None,
            "unified_checkpoint": unified_checkpoint,
        }
    )


@dataclass(frozen=True)
class RunOutputs:
    """The outputs of a run, and its signal to stop.

    Args:
        metrics: the log of the metrics.
        stop: checked after each step.
        data: the fingerprints of the data, by split.
        checkpoints: the number of checkpoints to keep, or None for all.
    """

    metrics: Metrics
    stop: StopSignal
    data: Mapping[str, str]
    checkpoints: int | None


class Loop(Trainer):  # type: ignore[misc]
    """Trains a model; subclasses provide the data.

    Args:
        model: a causal language model, its pipeline form, or a LoRA model.
        args: upstream's arguments.
        tokenizer: saved with every checkpoint, or None.
        outputs: the outputs of the run.
        callback: controls the loop.
        datasets: upstream's ``train_dataset`` and ``eval_dataset``.
    """

    def __init__(
        self,
        model: Any,
        args: Arguments,
        tokenizer: Any,
        outputs: RunOutputs,
        callback: LoopCallback,
        **datasets: Any,
    ) -> None:
        super().__init__(
            model=model, args=args, tokenizer=tokenizer, callbacks=[callback], **datasets
        )
        self.remove_callback(PrinterCallback)
        if args.unified_checkpoint and args.world_size == 1:
            self.unified_checkpoint_handler = unified.OneProcess(args)
        self.outputs = outputs
        self._callback = callback
        self._tokens = 0
        self._seconds = 0.0

    # ---- steps

    def training_step(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Run one batch forward and backward, and count it."""
        start = time.perf_counter()
        self._tokens += inputs.pop("tokens")
        loss = super().training_step(model, inputs)
        if not math.isfinite(float(loss)):
            raise JobError(
                f"the loss is not finite at step {self.state.global_step + 1}",
                where=self.args.output_dir,
                remedy='reduce "learning_rate", or set "max_grad_norm" to 1.0',
            )
        self._seconds += time.perf_counter() - start
        return loss

    # ---- metrics

    def log(self, logs: dict[str, float], **_kwargs: Any) -> None:
        """Write and report the metrics of a step or an evaluation."""
        if "loss" in logs:
            self._log_step(logs["loss"])
        elif "eval_loss" in logs:
            self._log_evaluation({k: v for k, v in logs.items() if k.startswith("eval_")})
        self.control.should_log = False

    def step_metrics(self) -> dict[str, Any]:
        """Return further metrics of a logged step."""
        return {}

    def _log_step(self, loss: float) -> None:
        step, total = self.state.global_step, self.state.max_steps
        seconds = self._seconds or 1e-9
        # Processes that share a model read the same tokens.
        speed = self._tokens * self.args.dataset_world_size / seconds
        entry = {
            "step": step,
            "epoch": round(self.state.epoch, 4),
            "loss": loss,
            "learning_rate": self._callback.learning_rate,
            "tokens_per_second": round(speed, 1),
            "memory_mib": peak_memory_mib(),
            **self.step_metrics(),
        }
        steps = max(1, self._callback.steps_since_log)
        if self.is_first:
            self.outputs.metrics.append(entry)
            del entry["epoch"]
            report(
                "step", total=total, seconds_left=round((total - step) * seconds / steps), **entry
            )
        self._tokens, self._seconds, self._callback.steps_since_log = 0, 0.0, 0

    def _log_evaluation(self, metrics: Mapping[str, float]) -> None:
        step = self.state.global_step
        if self.is_first:
            self.outputs.metrics.append({"step": step, **metrics})
            report(
                "evaluation", step=step, **{k.removeprefix("eval_"): v for k, v in metrics.items()}
            )

    @property
    def is_first(self) -> bool:
        """Return whether this process writes and reports."""
        return int(self.args.process_index) == 0

    # ---- checkpoints

    def _save_checkpoint(self, model: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Let upstream write the checkpoint in a temporary folder, then rename it."""
        run = Path(self.args.output_dir)
        step = self.state.global_step
        self._remember_best(run / f"{checkpoints.PREFIX}-{step}", metrics)
        with self.main_process_first(checkpoints.saving(run, step, self.outputs.data)):
            self.args.output_dir = self.args.output_signal_dir = str(
                checkpoints.temporary_folder(run)
            )
            try:
                with operating_system_errors():
                    super()._save_checkpoint(model, metrics=None)
            finally:
                self.args.output_dir = self.args.output_signal_dir = str(run)
        if self.is_first:
            self._remove_old(run)
            note(f"saved {checkpoints.PREFIX}-{step}")

    @contextmanager
    def main_process_first(self, context: Any) -> Iterator[None]:
        """Enter a context in the first process; the others wait at its start and end."""
        if not self.is_first:
            self._barrier()
            yield
            self._barrier()
            self._barrier()
            return
        with context:
            self._barrier()
            yield
            self._barrier()
        self._barrier()

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            distributed.barrier()

    def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: Any = None) -> None:
        """Remove nothing while a checkpoint is being written; see ``_remove_old``."""

    def _remember_best(self, folder: Path, metrics: Mapping[str, float] | None) -> None:
        name = self.args.metric_for_best_model
        if metrics is None or name is None:
            return
        value = metrics[name if name.startswith("eval_") else f"eval_{name}"]
        best = self.state.best_metric
        better = best is None or (value > best if self.args.greater_is_better else value < best)
        if better or self.state.best_model_checkpoint is None:
            self.state.best_metric = value
            self.state.best_model_checkpoint = str(folder)

    def _remove_old(self, run: Path) -> None:
        """Keep the newest checkpoints and the best one.

        Checkpoints of later steps, which were damaged or not resumed from, are ignored; they are
        replaced when training reaches their step.
        """
        keep = self.outputs.checkpoints
        if keep is None:
            return
        best = self.state.best_model_checkpoint
        step = self.state.global_step
        newest_first = [f for f in checkpoints.find_all(run) if checkpoints.step_of(f) <= step]
        newest = newest_first[:keep]
        if best and Path(best) in newest_first and Path(best) not in newest:
            # With a limit of one, the newest stays too, because training resumes from it.
            newest = [*newest[: max(1, keep - 1)], Path(best)]
        checkpoints.remove([folder for folder in newest_first if folder not in newest])


class LoopCallback(TrainerCallback):  # type: ignore[misc]
    """Records the learning rate of each step, and ends the loop after a signal.

    Args:
        stop: checked after each step.
    """

    def __init__(self, stop: StopSignal) -> None:
        self.learning_rate = 0.0
        self.steps_since_log = 0
        self._stop = stop
        self._stopping = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the learning rate of this step; upstream logs that of the next one."""
        self.learning_rate = kwargs["optimizer"].get_lr()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """After a signal: log, save and end in all processes at the same step."""
        self.steps_since_log += 1
        self._stopping = self._is_stop_requested(args)
        if self._stopping:
            control.should_log = control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """After a signal: do not log or save again at the end of the loop."""
        if self._stopping and control.should_training_stop:
            control.should_log = control.should_save = control.should_evaluate = False
        return control

    def _is_stop_requested(self, args: Any) -> bool:
        """Return whether any process received a signal; they may receive it at different steps."""
        mine = self._stop.received or 0
        if args.world_size == 1:
            return mine > 0
        signum = paddle.to_tensor([mine], dtype="int64")
        distributed.all_reduce(signum, op=distributed.ReduceOp.MAX)
        if int(signum):
            self._stop.report(int(signum))
        return int(signum) > 0
