"""The configuration of a training or quantization: a JSON object with upstream's keys.

:func:`load` reads and checks it, on the host before a container starts and again in the
container. It reports all faults at once.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import backends
from paddle_stacks.jobs.schema.checks import Draft, Fault, contradictions, unfit_for_device
from paddle_stacks.jobs.schema.keys import PARALLEL, SCHEMAS, Key, Schema
from paddle_stacks.jobs.schema.reading import Document, read
from paddle_stacks.jobs.schema.values import check_value, from_override, unknown_key

__all__ = ["PARALLEL", "SCHEMAS", "Config", "Key", "load"]


@dataclass(frozen=True)
class Config:
    """A valid configuration.

    Args:
        path: its file.
        schema: the schema of its job.
        values: all keys in upstream's spelling, with defaults resolved.
        explicit: the keys that are set, in the file or with ``--set``.
        notes: messages for the user: keys without an effect here, values that follow from
            others.
    """

    path: Path
    schema: Schema
    values: Mapping[str, Any]
    explicit: frozenset[str]
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def to_json(self) -> str:
        """Return all keys as JSON text, which :func:`load` reads back to the same values.

        Keys without an effect in this job are omitted, unless they are set.
        """
        shown = {
            name: value
            for name, value in self.values.items()
            if name in self.explicit or not (self._key(name).inert or self._key(name).refused)
        }
        return json.dumps(shown, ensure_ascii=False, indent=2) + "\n"

    def _key(self, name: str) -> Key:
        return self.schema.keys[name]


def load(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    job: str = "finetune",
    backend: str = "cpu",
    world: int = 1,
) -> Config:
    """Read a configuration, apply ``KEY=VALUE`` overrides, and check all of it.

    Args:
        path: a JSON file; None for overrides only.
        overrides: ``KEY=VALUE``, the last of a key applies; the value is JSON or a string.
        job: name of the job.
        backend: the backend that the job runs on; it determines the default of ``device`` and
            the supported keys.
        world: number of processes on all nodes; parallel keys have no effect in one.

    Raises:
        RequestError: with one problem for each fault.
    """
    schema = SCHEMAS.get(job)
    if schema is None:
        raise RequestError(
            f'the job "{job}" has no configuration',
            remedy=f"jobs with a configuration: {', '.join(SCHEMAS)}",
        )
    document = read(path) if path else Document(Path(job), {}, {}, ())
    written, places, faults = _written(document, overrides, schema)
    device = backends.device(backend)
    values = _resolved(written, device, schema)
    draft = Draft(schema, MappingProxyType(values), frozenset(written), _places(document, places))
    wrong = {key for key, _ in faults}  # their defaults are used below; report them only once
    unfit, remedies = unfit_for_device(draft, device)
    faults += [fault for fault in (*contradictions(draft), *unfit) if fault[0] not in wrong]
    problems = [*document.problems, *(problem for _, problem in faults)]
    if len(remedies) > 1:
        sets = " ".join(f"--set {shlex.quote(remedy)}" for remedy in remedies)
        message = "this configuration is for an accelerator"
        problems.append(Problem(message, str(document.path), f"on a CPU add: {sets}"))
    if problems:
        raise RequestError(problems)
    return Config(
        document.path, schema, draft.values, draft.explicit, tuple(_notes(draft, written, world))
    )


def _written(
    document: Document, overrides: Sequence[str], schema: Schema
) -> tuple[dict[str, Any], dict[str, str], list[Fault]]:
    """Return the valid values that are set, the places of overrides, and the faults."""
    entries = [(name, value, document.where(name)) for name, value in document.values.items()]
    places: dict[str, str] = {}
    faults: list[Fault] = []
    for text in overrides:
        try:
            name, value = from_override(text)
        except RequestError as error:
            faults += [("--set", problem) for problem in error.problems]
            continue
        places[name] = f"--set {name}"
        entries = [entry for entry in entries if entry[0] != name]
        entries.append((name, value, places[name]))
    written: dict[str, Any] = {}
    for name, value, where in entries:
        if name not in schema.keys:
            faults.append((name, unknown_key(name, where, schema)))
            continue
        right, problem = check_value(schema.keys[name], value, where)
        if problem:
            faults.append((name, problem))
        else:
            written[name] = right
    return written, places, faults


def _resolved(written: Mapping[str, Any], device: str, schema: Schema) -> dict[str, Any]:
    values = {name: written.get(name, key.default) for name, key in schema.keys.items()}
    if values["device"] is None:
        values["device"] = device
    if values["evaluation_strategy"] != "no":
        values["do_eval"] = True  # as upstream does
    elif schema.job == "pretrain" and values["do_eval"] and values["eval_steps"]:
        values["evaluation_strategy"] = "steps"  # as upstream does, and as its own files need it
    if values["evaluation_strategy"] == "steps" and values["eval_steps"] is None:
        values["eval_steps"] = values["logging_steps"]  # as upstream does
    if values["load_best_model_at_end"] and values["metric_for_best_model"] is None:
        values["metric_for_best_model"] = "loss"
    metric = values["metric_for_best_model"]
    if metric is not None and values["greater_is_better"] is None:
        values["greater_is_better"] = metric not in ("loss", "eval_loss")
    return values


def _places(document: Document, overrides: Mapping[str, str]) -> Callable[[str], str]:
    return lambda key: overrides.get(key) or document.where(key)


def _notes(draft: Draft, written: Mapping[str, Any], world: int) -> list[str]:
    notes = []
    inert: dict[str, list[str]] = {}
    for name, value in written.items():
        key = draft.schema.keys[name]
        acts = world > 1 and name in PARALLEL
        if key.inert and value != key.default and not acts:
            inert.setdefault(key.inert, []).append(name)
    for reason, names in inert.items():
        notes.append(f"no effect here: {', '.join(names)} ({reason})")
    if written.get("do_eval") is False and draft.values["do_eval"]:
        strategy = draft.values["evaluation_strategy"]
        notes.append(
            f'evaluating although "do_eval" is false, because "evaluation_strategy" is "{strategy}"'
        )
    if "eval_steps" not in written and draft.values["evaluation_strategy"] == "steps":
        notes.append(f'"eval_steps" is not set: {draft.values["eval_steps"]}, as "logging_steps"')
    return notes
