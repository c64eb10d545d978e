"""Tensor and pipeline parallelism on a CPU, which Paddle 3.0.0b2 does not support.

``paddle.distributed.fleet`` was written for accelerators. With Gloo, which replaces RCCL on a
CPU, six features are missing:

- the device ID of a process ("no attribute '_device_id'");
- the broadcast of a batch in a group that shares a model ("Only support xpu, gpu …");
- the collectives "on the calculation stream", which a CPU does not have;
- the operators of tensor parallelism (``c_identity`` and others have no CPU kernel);
- an order of sends and receives: Gloo's send waits for the receiver, so two stages that both
  send first deadlock;
- a store for each group, because their keys collide in one, and a group for each pair of
  stages: Gloo numbers the messages of a process in a group, and the middle one of three stages
  counts differently from its neighbours.

:func:`install` adds them to this process; it is only called on a CPU. With the same data, each
layout then has the losses of one process (tests/jobs/test_parallel.py). Sharding of gradients
and weights (stages 2 and 3) is not supported, because it queries a device's memory.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import distributed
from paddle.autograd import PyLayer
from paddle.base import core
from paddle.distributed import collective
from paddle.distributed import parallel as parallel_environment
from paddle.distributed.fleet.layers.mpu import mp_ops
from paddle.distributed.fleet.meta_parallel.pp_utils import p2p_communication
from paddle.distributed.fleet.utils import hybrid_parallel_util

__all__ = ["install"]

_STORE_SECONDS = 300  # timeout for connecting the members of a group
_stores: list[Any] = []  # keeps the stores alive as long as the groups
_pairs: dict[tuple[int, ...], Any] = {}  # the groups of two stages, by their processes


def install() -> None:
    """Add the features to this process; call it before fleet is initialized."""
    parallel_environment.ParallelEnv._device_id = 0
    _install_broadcast()
    _install_collectives()
    _install_tensor_parallel_operators()
    _install_pipeline()
    collective._new_process_group_impl = _with_own_store(collective._new_process_group_impl)


# ---- broadcast of batches


def _install_broadcast() -> None:
    hybrid_parallel_util.broadcast_input_data = _broadcast_input_data
    for name in ("tensor_parallel", "pipeline_parallel", "sharding_parallel", "segment_parallel"):
        module = importlib.import_module(f"paddle.distributed.fleet.meta_parallel.{name}")
        if hasattr(module, "broadcast_input_data"):
            setattr(module, "broadcast_input_data", _broadcast_input_data)  # noqa: B010 (no stubs)


def _broadcast_input_data(topology: Any, *inputs: Any, **named: Any) -> tuple[Any, Any]:
    """Broadcast the first process's tensors in a tensor-parallel group, in place."""
    for value in (*inputs, *named.values()):
        if isinstance(value, paddle.Tensor):
            with paddle.no_grad():
                hybrid_parallel_util._broadcast_data_help(value, value.shape, value.dtype, topology)
    return inputs, named


# ---- collectives


def _install_collectives() -> None:
    """Add the collectives of a device's stream to Gloo; they block until they are complete."""
    gloo = core.ProcessGroupGloo

    def done(task: Any) -> Any:
        if task is not None and hasattr(task, "wait"):
            task.wait()
        return task

    gloo.all_reduce_on_calc_stream = lambda self, tensor, op=core.ReduceOp.SUM: done(
        self.all_reduce(tensor, op, True)
    )
    gloo.broadcast_on_calc_stream = lambda self, tensor, source: done(
        self.broadcast(tensor, source, True)
    )
    gloo.send_on_calc_stream = lambda self, tensor, to: done(self.send(tensor, to, True))
    gloo.recv_on_calc_stream = lambda self, tensor, source: done(self.recv(tensor, source, True))
    gloo.reduce_on_calc_stream = lambda self, tensor, to, op: done(
        self.reduce(tensor, to, op, True)
    )
    gloo.all_gather_on_calc_stream = lambda self, out, tensor: done(
        self.all_gather(out, tensor, True)
    )
    gloo.all_gather_into_tensor_on_calc_stream = lambda self, out, tensor: done(
        self.all_gather_into_tensor(out, tensor, True)
    )
    gloo.reduce_scatter_tensor = _reduce_scatter
    gloo.reduce_scatter_tensor_on_calc_stream = _reduce_scatter


class _Done:
    """A completed task."""

    def wait(self) -> bool:
        """Return immediately."""
        return True


def _reduce_scatter(self: Any, out: Any, tensor: Any, op: Any, *_rest: Any) -> _Done:
    """Write this process's part of a sum to ``out``; Gloo only computes whole sums.

    Args:
        self: the process group.
        out: [rows / members, …], overwritten.
        tensor: [rows, …].
        op: the kind of reduction.
    """
    with paddle.no_grad():
        whole = tensor.clone()
        self.all_reduce(whole, op, True).wait()
        rows = out.shape[0]
        paddle.assign(whole[self.rank() * rows : (self.rank() + 1) * rows], out)
    return _Done()


# ---- pipeline stages


def _install_pipeline() -> None:
    p2p = p2p_communication
    p2p.batch_send_recv_on_calc_stream = _send_and_receive
    receive, send, begin = (
        p2p.SendRecvMeta.recv_meta,
        p2p.SendRecvMeta.send_meta,
        p2p.initialize_p2p_groups,
    )

    def recv_meta(self: Any, group: Any) -> None:
        receive(self, _pair(p2p._hcg._get_p2p_prev_rank(), group))

    def send_meta(self: Any, tensor: Any, group: Any) -> None:
        send(self, tensor, _pair(p2p._hcg._get_p2p_next_rank(), group))

    def initialize_p2p_groups(topology: Any, *arguments: Any, **named: Any) -> None:
        _make_pairs(topology)
        begin(topology, *arguments, **named)

    p2p.SendRecvMeta.recv_meta, p2p.SendRecvMeta.send_meta = recv_meta, send_meta
    p2p.initialize_p2p_groups = initialize_p2p_groups


def _make_pairs(topology: Any) -> None:
    """Create a group for each pair of neighbouring stages; all processes create all of them."""
    if _pairs:
        return
    for stages in topology._topo.get_comm_list("pipe"):
        # With virtual stages, the last one is a neighbour of the first one.
        for first, second in zip(stages, [*stages[1:], stages[0]], strict=True):
            ranks = tuple(sorted((first, second)))
            if len(stages) > 2 and ranks not in _pairs:
                _pairs[ranks] = distributed.new_group(list(ranks), backend="gloo")


def _pair(peer: int, group: Any) -> Any:
    """Return the group of this process and a neighbour; with two stages, their own group."""
    mine = distributed.get_rank()
    return _pairs.get((min(mine, peer), max(mine, peer)), group)


def _send_and_receive(operations: Sequence[Any]) -> None:
    """Execute a stage's sends and receives in an order that avoids deadlocks.

    All stages use the same order: first the messages from lower to higher stages, then the
    others, pair by pair.
    """
    mine = distributed.get_rank()

    def turn(operation: Any) -> tuple[bool, int, int]:
        sends = operation.op is p2p_communication._send_on_calc_stream
        upwards = sends == (mine < operation.peer)
        return not upwards, min(mine, operation.peer), max(mine, operation.peer)

    for it in sorted(operations, key=turn):
        it.op(it.tensor, _pair(it.peer, it.group), it.peer, it.nranks, it.rank_id)


def _with_own_store(create: Any) -> Any:
    """Return a constructor of process groups that creates a store for each Gloo group."""

    def made(
        backend: str,
        store: Any,
        rank: int,
        world_size: int,
        group_name: str,
        pg_options: Any,
        group_id: int = 0,
        *rest: Any,
        **named: Any,
    ) -> Any:
        if backend != "gloo":
            return create(
                backend, store, rank, world_size, group_name, pg_options, group_id, *rest, **named
            )
        own = _own_store(store, rank, world_size, group_id)
        _stores.append(own)
        return core.ProcessGroupGloo.create(own, rank, world_size, group_id)

    return made


def _own_store(store: Any, rank: int, world_size: int, group_id: int) -> Any:
    key = f"paddle_stacks_group_{group_id}"
    if rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]
        # Before the store is created, because its constructor waits for all members.
        store.set(key, f"{host}:{port}".encode())
        return core.TCPStore(host, port, True, world_size, _STORE_SECONDS)
    store.wait(key)
    host, _, text = bytes(store.get(key)).decode().rpartition(":")
    return core.TCPStore(host, int(text), False, world_size, _STORE_SECONDS)


# ---- the operators of tensor parallelism (Megatron-LM, arXiv 1909.08053, section 3)


def _install_tensor_parallel_operators() -> None:
    operators = {
        "_c_identity": lambda tensor, group=None, skip_c_identity_dynamic=False: (
            tensor if skip_c_identity_dynamic else _Identity.apply(tensor, _group(group))
        ),
        "_mp_allreduce": _mp_allreduce,
        "_c_concat": lambda tensor, group=None: _Concat.apply(tensor, _group(group)),
        "_c_split": lambda tensor, group=None: _Split.apply(tensor, _group(group)),
        "_c_softmax_with_cross_entropy": _softmax_with_cross_entropy,
    }
    for name, function in operators.items():
        setattr(mp_ops, name, function)
        if hasattr(collective, name):
            setattr(collective, name, function)


def _group(group: Any) -> Any:
    return collective._get_default_group() if group is None else group


def _mp_allreduce(
    tensor: Any,
    op: Any = distributed.ReduceOp.SUM,
    group: Any = None,
    use_calc_stream: bool = True,
    use_model_parallel: bool = True,
    skip_c_identity_dynamic: bool = False,
) -> Any:
    return _Sum.apply(tensor, _group(group))


def _softmax_with_cross_entropy(
    logits: Any,
    label: Any,
    group: Any = None,
    return_softmax: bool = False,
    ignore_index: int = -100,
) -> Any:
    return _CrossEntropy.apply(logits, label, _group(group), ignore_index)


def _gathered(tensor: Any, group: Any) -> Any:
    """Return the parts of all members, concatenated along the last axis."""
    parts: list[Any] = []
    distributed.all_gather(parts, tensor.contiguous(), group=group)
    return paddle.concat(parts, axis=-1)


def _own_part(tensor: Any, group: Any) -> Any:
    size = tensor.shape[-1] // group.nranks
    return tensor[..., group.rank * size : (group.rank + 1) * size].clone()


class _Identity(PyLayer):  # type: ignore[misc]
    """A copy whose gradient is the sum of all members' gradients; f in the paper."""

    @staticmethod
    def forward(context: Any, tensor: Any, group: Any) -> Any:
        """Return a copy; any shape."""
        context.group = group
        return tensor.clone()

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        """Return the sum of the members' gradients."""
        summed = gradient.clone()
        distributed.all_reduce(summed, group=context.group)
        return summed


class _Sum(PyLayer):  # type: ignore[misc]
    """The sum over all members, whose gradient is unchanged; g in the paper."""

    @staticmethod
    def forward(context: Any, tensor: Any, group: Any) -> Any:
        """Return the sum; any shape."""
        summed = tensor.clone()
        distributed.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        """Return the gradient as it is."""
        return gradient.clone()


class _Concat(PyLayer):  # type: ignore[misc]
    """The parts of all members, concatenated along the last axis."""

    @staticmethod
    def forward(context: Any, tensor: Any, group: Any) -> Any:
        """Return [..., members * width] of [..., width]."""
        context.group = group
        return _gathered(tensor, group)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        """Return this member's part of the gradient."""
        return _own_part(gradient, context.group)


class _Split(PyLayer):  # type: ignore[misc]
    """This member's part of the last axis."""

    @staticmethod
    def forward(context: Any, tensor: Any, group: Any) -> Any:
        """Return [..., width / members] of [..., width]."""
        context.group = group
        return _own_part(tensor, group)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        """Return the concatenated gradients of all members."""
        return _gathered(gradient, context.group)


class _CrossEntropy(PyLayer):  # type: ignore[misc]
    """Cross entropy of logits whose vocabulary is divided among the members."""

    @staticmethod
    def forward(context: Any, logits: Any, label: Any, group: Any, ignore_index: int) -> Any:
        """Return the losses.

        Args:
            context: for the gradient.
            logits: [..., vocabulary / members], this member's part.
            label: [..., 1] or [...], token IDs of the whole vocabulary.
            group: the members.
            ignore_index: the label of positions without loss.

        Returns:
            [..., 1], the same in all members.
        """
        size = logits.shape[-1]
        first = group.rank * size
        labels = (label if label.ndim == logits.ndim else label.unsqueeze(-1)).astype("int64")
        largest = logits.max(axis=-1, keepdim=True)
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX, group=group)
        powers = paddle.exp(logits - largest)
        total = powers.sum(axis=-1, keepdim=True)
        distributed.all_reduce(total, group=group)
        inside = paddle.logical_and(labels >= first, labels < first + size)
        own = paddle.where(inside, labels - first, paddle.zeros_like(labels))
        inside = inside.astype(logits.dtype)
        picked = paddle.take_along_axis(logits - largest, own, axis=-1) * inside
        distributed.all_reduce(picked, group=group)
        counted = (labels != ignore_index).astype(logits.dtype)
        context.save_for_backward(powers / total, own, inside, counted)
        return (paddle.log(total) - picked) * counted

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        """Return the gradient of this member's logits: probability minus one at the label."""
        shares, own, inside, counted = context.saved_tensor()
        right = paddle.nn.functional.one_hot(own.squeeze(-1), shares.shape[-1])
        return (shares - right.astype(shares.dtype) * inside) * (gradient * counted)
