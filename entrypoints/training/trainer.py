"""Fine-tuning: the loop with batches of answers, and the loss at their tokens."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from entrypoints.training.batches import Batches
from entrypoints.training.loop import Arguments, Flow, Keeping, Loop
from entrypoints.training.model import AnswerHead, trainable_parameters
from entrypoints.training.stop import StopSignal
from paddle_stacks.errors import JobError

__all__ = ["Finetuner"]


class Finetuner(Loop):
    """Trains a model on batches.

    Args:
        model: a causal language model, or a LoRA model.
        args: upstream's arguments.
        tokenizer: saved with every checkpoint, or None.
        train: the batches to learn from.
        dev: the batches to evaluate on, or None.
        keeping: what is written, and when it ends early.
    """

    def __init__(
        self,
        model: Any,
        args: Arguments,
        tokenizer: Any,
        *,
        train: Batches,
        dev: Batches | None,
        keeping: Keeping,
    ) -> None:
        super().__init__(
            model,
            args,
            tokenizer,
            keeping,
            _EpochFlow(keeping.stop, train),
            train_dataset=train.rows,
            eval_dataset=dev.rows if dev else None,
        )
        self._head = AnswerHead(model)
        self._train = train
        self._dev = dev

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

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        """Return the mean cross entropy of a batch's labels."""
        losses, logits = self._head.losses(inputs)
        loss = losses.mean()
        return (loss, logits) if return_outputs else loss

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


class _EpochFlow(Flow):
    """Chooses the order of an epoch's batches as well."""

    def __init__(self, stop: StopSignal, train: Batches) -> None:
        super().__init__(stop)
        self._train = train

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Choose the order of the epoch that the next step belongs to."""
        self._train.epoch = state.global_step // max(
            1, len(self._train) // args.gradient_accumulation_steps
        )
