"""The training loop: PaddleNLP's ``Trainer`` with this project's batches, loss and checkpoints."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments
from paddlenlp.trainer.trainer_callback import PrinterCallback
from paddlenlp.transformers.configuration_utils import llmmetaclass

from entrypoints.console import note, report
from entrypoints.training import checkpoints
from entrypoints.training.batches import Batches
from entrypoints.training.metrics import Metrics, peak_memory_mib
from entrypoints.training.model import AnswerHead, trainable_parameters
from entrypoints.training.stop import StopSignal
from paddle_stacks.errors import JobError
from paddle_stacks.jobs.schema import Config

__all__ = ["Arguments", "Finetuner", "arguments"]


@dataclass
@llmmetaclass
class Arguments(TrainingArguments):  # type: ignore[misc]
    """Upstream's arguments of a training, with those of its language models."""

    decay_steps: int = 0


def arguments(config: Config, run: Path) -> Arguments:
    """Return upstream's arguments for a configuration: its own keys, and what is decided here."""
    names = {field.name for field in dataclasses.fields(Arguments)}
    taken = {name: config[name] for name in config.explicit if name in names}
    taken |= {name: config[name] for name in ("do_train", "do_eval", "device", "eval_steps")}
    return Arguments(
        **{
            **taken,
            "output_dir": str(run),
            "disable_tqdm": True,
            "report_to": [],
            "save_total_limit": None,  # checkpoints are removed after the new one has its name
            "resume_from_checkpoint": None,
            # PaddleNLP 3.0.0b3 writes a unified checkpoint of one process in float32 and
            # cannot read its optimizer back (TypeError: unhashable type: 'list').
            "unified_checkpoint": False,
        }
    )


class Finetuner(Trainer):  # type: ignore[misc]
    """Trains a model on batches.

    Args:
        model: a causal language model, or a LoRA model.
        args: upstream's arguments.
        tokenizer: saved with every checkpoint, or None.
        train: the batches to learn from.
        dev: the batches to evaluate on, or None.
        metrics: where the numbers go.
        stop: asked after each step.
        data: the fingerprints of the data, by split.
        keep: how many checkpoints are kept, or None for all.
    """

    def __init__(
        self,
        model: Any,
        args: Arguments,
        tokenizer: Any,
        *,
        train: Batches,
        dev: Batches | None,
        metrics: Metrics,
        stop: StopSignal,
        data: Mapping[str, str],
        keep: int | None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            tokenizer=tokenizer,
            train_dataset=train.rows,
            eval_dataset=dev.rows if dev else None,
            callbacks=[_Flow(stop, train)],
        )
        self.remove_callback(PrinterCallback)
        self._head = AnswerHead(model)
        self._train = train
        self._dev = dev
        self._metrics = metrics
        self._data = data
        self._keep = keep
        self._tokens = 0
        self._seconds = 0.0

    # ---- what is trained

    def get_train_dataloader(self) -> Batches:
        """Return the batches to learn from."""
        return self._train

    def create_optimizer(self, lr_scheduler: Any = None) -> Any:
        """Return AdamW over the trained parameters only, as upstream sets it up over all."""
        named = trainable_parameters(self.model)
        decayed = {p.name for name, p in named if not any(s in name for s in ("bias", "norm"))}
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
        if self.args.fp16_opt_level == "O2":
            settings["multi_precision"] = True
        clip = self.args.max_grad_norm
        self.optimizer = kind(
            learning_rate=lr_scheduler or self.lr_scheduler,
            parameters=[p for _, p in named],
            apply_decay_param_fun=decayed.__contains__,
            weight_decay=self.args.weight_decay,
            grad_clip=nn.ClipGradByGlobalNorm(clip) if clip > 0 else None,
            **settings,
        )
        return self.optimizer

    def training_step(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Run one batch forward and backward, and count it."""
        start = time.perf_counter()
        self._tokens += inputs.pop("tokens")
        loss = super().training_step(model, inputs)
        if not math.isfinite(float(loss)):
            raise JobError(
                f"the loss is not a number any more, at step {self.state.global_step + 1}",
                where=self.args.output_dir,
                remedy='lower "learning_rate", or set "max_grad_norm" to 1.0',
            )
        self._seconds += time.perf_counter() - start
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        """Return the mean cross entropy of a batch's labels."""
        losses, logits = self._head.losses(inputs)
        loss = losses.mean()
        return (loss, logits) if return_outputs else loss

    # ---- how it goes

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Return loss and next-token accuracy over all labels of the evaluation data."""
        if self._dev is None:
            raise JobError("there is no evaluation data")
        loss = right = count = 0.0
        self.model.eval()
        with paddle.no_grad():
            for number, inputs in enumerate(self._dev, start=1):
                with self.autocast_smart_context_manager():
                    losses, logits = self._head.losses(inputs)
                loss += float(losses.sum())
                right += float((logits.argmax(-1) == inputs["targets"]).astype("int64").sum())
                count += losses.shape[0]
                if number == self.args.max_evaluate_steps:
                    break
        self.model.train()
        found = {"eval_loss": loss / count, "eval_accuracy": right / count}
        self.log(dict(found))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def log(self, logs: dict[str, float], **_kwargs: Any) -> None:
        """Write and report what the loop has to say after a step or an evaluation."""
        if "loss" in logs:
            self._log_step(logs["loss"])
        elif "eval_loss" in logs:
            self._log_evaluation(logs["eval_loss"], logs["eval_accuracy"])
        self.control.should_log = False

    def _log_step(self, loss: float) -> None:
        step, total = self.state.global_step, self.state.max_steps
        seconds = self._seconds or 1e-9
        speed = self._tokens / seconds
        entry = {
            "step": step,
            "epoch": round(self.state.epoch, 4),
            "loss": loss,
            "learning_rate": self._flow.learning_rate,
            "tokens_per_second": round(speed, 1),
            "memory_mib": peak_memory_mib(),
        }
        self._metrics.append(entry)
        del entry["epoch"]
        left = round((total - step) * seconds / max(1, self._flow.steps_since_log))
        report("step", total=total, seconds_left=left, **entry)
        self._tokens, self._seconds, self._flow.steps_since_log = 0, 0.0, 0

    def _log_evaluation(self, loss: float, accuracy: float) -> None:
        step = self.state.global_step
        self._metrics.append({"step": step, "eval_loss": loss, "eval_accuracy": accuracy})
        report("evaluation", step=step, loss=loss, accuracy=accuracy)

    @property
    def _flow(self) -> _Flow:
        flow: _Flow = next(c for c in self.callback_handler.callbacks if isinstance(c, _Flow))
        return flow

    # ---- what is kept

    def _save_checkpoint(self, model: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Let upstream write the checkpoint below another folder, then give it its name."""
        run = Path(self.args.output_dir)
        step = self.state.global_step
        self._remember_best(run / f"{checkpoints.PREFIX}-{step}", metrics)
        with checkpoints.saving(run, step, self._data) as below:
            self.args.output_dir = self.args.output_signal_dir = str(below)
            try:
                super()._save_checkpoint(model, metrics=None)
            finally:
                self.args.output_dir = self.args.output_signal_dir = str(run)
        self._remove_old(run)
        note(f"saved {checkpoints.PREFIX}-{step}")

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
        """Keep the newest checkpoints, and the best one."""
        if self._keep is None:
            return
        best = self.state.best_model_checkpoint
        newest_first = checkpoints.found(run)
        kept = newest_first[: self._keep]
        if best and Path(best) in newest_first and Path(best) not in kept:
            # With a limit of one, the newest stays too: training resumes from it.
            kept = [*kept[: max(1, self._keep - 1)], Path(best)]
        checkpoints.remove([folder for folder in newest_first if folder not in kept])


class _Flow(TrainerCallback):  # type: ignore[misc]
    """Steers the loop: the order of an epoch's batches, and the end when a signal came."""

    def __init__(self, stop: StopSignal, train: Batches) -> None:
        self.learning_rate = 0.0
        self.steps_since_log = 0
        self._stop = stop
        self._train = train

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Choose the order of the epoch that the next step belongs to."""
        self._train.epoch = state.global_step // max(
            1, len(self._train) // args.gradient_accumulation_steps
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the rate that the step is made with; upstream logs the next one's."""
        self.learning_rate = kwargs["optimizer"].get_lr()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """After a signal: log, save, and end."""
        self.steps_since_log += 1
        if self._stop.received is not None:
            control.should_log = control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """After a signal: the loop calls this on its way out, with everything saved."""
        if self._stop.received is not None and control.should_training_stop:
            control.should_log = control.should_save = control.should_evaluate = False
        return control
