"""What the engine does next, on a fake model that knows what every text has been given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from entrypoints.inference.generate import GenerationConfig, StoppingCriteria, generate
from entrypoints.inference.sampling import SamplingConfig
from entrypoints.inference.sampling import sampled_token as choice_of
from entrypoints.serving.engine import Draining, Engine, Full
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.request import Failure, PromptLogprobs, Request, RequestOutput
from entrypoints.serving.scheduler import Scheduler, SchedulerConfig
from tests.support import fake_model
from tests.support.fake_model import FakeNetwork

SPACE = SchedulerConfig(max_num_seqs=4, cache_tokens=16384, prefill_tokens=64, max_waiting=100)
GREEDY = SamplingConfig()


@dataclass
class Listener:
    """What was said of one work."""

    news: list[RequestOutput | Failure] = field(default_factory=list)

    def pieces(self, index: int = 0) -> list[RequestOutput]:
        return [n for n in self.news if isinstance(n, RequestOutput) and n.index == index]

    def text(self, index: int = 0) -> str:
        return "".join(piece.text for piece in self.pieces(index))

    def reason(self, index: int = 0) -> str:
        return self.pieces(index)[-1].finish_reason

    @property
    def failure(self) -> Failure | None:
        return next((n for n in self.news if isinstance(n, Failure)), None)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def work(prompt: str, **changes) -> tuple[Request, Listener]:
    heard = Listener()
    tokens = fake_model.FakeTokenizer()(prompt)["input_ids"]
    given = {
        "prompt": tokens,
        "count": 1,
        "sampling": GREEDY,
        "limits": StoppingCriteria(200, fake_model.CONTEXT),
        "top_logprobs": None,
        "deadline": 1e9,
        "listen": heard.news.append,
        "arrived": 100.0,
    }
    return Request(**{**given, **changes}), heard


def scheduler(
    space: SchedulerConfig = SPACE, network: FakeNetwork | None = None, clock=None
) -> Scheduler:
    return Scheduler(
        network or FakeNetwork(), fake_model.text(), space, Metrics("fake"), clock or Clock()
    )


def finish(made: Scheduler, rounds: int = 10_000) -> int:
    for number in range(rounds):
        if made.idle:
            return number
        made.step()
    raise AssertionError("it does not end")


class Batched:
    """The fake model as ``infer``'s decoding loop calls it."""

    def start(self, prompts: Sequence[Sequence[int]]):
        longest = max(map(len, prompts))
        tokens = np.zeros((len(prompts), longest), dtype=np.int64)
        known = np.zeros_like(tokens, dtype=bool)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = prompt
            known[row, longest - len(prompt) :] = True
        batch = FakeNetwork().begin(len(prompts))
        batch.read(tokens, known)
        return batch


def as_infer_does(asked: Request, number: int = 0):
    wanted = [GenerationConfig(asked.sampling, asked.limits)]
    (answer,) = generate(Batched(), fake_model.text(), [asked.prompt], [number], wanted)
    return answer


FOREVER = "<s>user: forever</s><s>"
PROMPTS = [
    "<s>user: hello</s><s>",
    "<s>user: " + "a long question, " * 30 + "</s><s>",
    "<s>user: 你好 世界</s><s>",
    "<s>user: x</s><s>",
    "no template at all",
    "<s>user: " + "z" * 64 + "</s><s>",
]


@pytest.mark.parametrize("seed", range(6))
def test_an_answer_is_the_same_whoever_comes_and_goes(seed: int) -> None:
    pick = random.Random(seed)
    made, asked = scheduler(), []
    for number in range(24):
        sampling = pick.choice([GREEDY, SamplingConfig(greedy=False, temperature=1.5, seed=number)])
        limits = StoppingCriteria(
            pick.choice([1, 7, 200]),
            fake_model.CONTEXT,
            pick.choice([(), ("fox",), ("狸 j",)]),
        )
        given, heard = work(pick.choice(PROMPTS), sampling=sampling, limits=limits)
        made.waiting.append(given)
        asked.append((given, heard))
        for _ in range(pick.randrange(12)):
            made.step()
    finish(made)
    for given, heard in asked:
        alone = as_infer_does(given)
        assert heard.text() == alone.text
        assert heard.reason() == alone.finish_reason
        assert heard.pieces()[-1].tokens == len(alone.token_ids)


def test_pieces_are_whole_characters_as_they_come() -> None:
    made = scheduler()
    given, heard = work(FOREVER, limits=StoppingCriteria(200, fake_model.CONTEXT))
    made.waiting.append(given)
    finish(made)
    assert "狐狸" in heard.text() and "🐶" in heard.text() and "\ufffd" not in heard.text()
    assert len(heard.pieces()) > 100
    assert [p.tokens for p in heard.pieces()] == sorted({p.tokens for p in heard.pieces()})


def test_a_request_joins_those_under_way_and_none_waits_for_their_end() -> None:
    made = scheduler()
    first, heard_first = work(FOREVER)
    made.waiting.append(first)
    for _ in range(10):
        made.step()
    second, heard_second = work(PROMPTS[0], limits=StoppingCriteria(3, fake_model.CONTEXT))
    made.waiting.append(second)
    for _ in range(4):
        made.step()
    assert heard_second.reason() == "length"
    assert not heard_first.reason()
    network_steps = [n for kind, n in made._network.calls if kind == "step"]
    assert 2 in network_steps, "both in one step"


def test_a_round_reads_no_more_than_its_share_of_a_long_prompt() -> None:
    network = FakeNetwork()
    made = scheduler(network=network)
    given, _ = work("<s>" + "a" * 1000)
    running, heard = work(FOREVER)
    made.waiting.append(running)
    made.step()
    made.waiting.append(given)
    before = heard.pieces()[-1].tokens if heard.pieces() else 0
    network.calls.clear()
    for _ in range(1001 // 64 + 1):
        made.step()
    reads = [n for kind, n in network.calls if kind == "read"]
    assert sum(reads) == 1001 and max(reads) == 64
    assert sum(kind == "step" for kind, _ in network.calls) == len(reads)
    assert heard.pieces()[-1].tokens >= before + len(reads) - 4  # 4: bytes of one character


def test_a_short_prompt_behind_a_long_one_waits_for_one_part_of_it() -> None:
    made = scheduler()
    long, heard_long = work("<s>" + "a" * 1000)
    short, heard_short = work("<s>hi</s><s>")
    made.waiting.extend([long, short])
    made.step()
    assert not heard_short.news
    made.step()
    made.step()
    assert heard_short.pieces() and not heard_long.news


def test_short_prompts_are_read_together() -> None:
    network = FakeNetwork()
    made = scheduler(network=network)
    for number in range(3):
        made.waiting.append(work("ab" * (number + 1))[0])
    made.step()
    assert [call for call in network.calls if call[0] == "read"] == [("read", 18)]


def test_no_more_than_the_places_are_taken_and_in_the_order_of_coming() -> None:
    made = scheduler(
        SchedulerConfig(max_num_seqs=2, cache_tokens=16384, prefill_tokens=64, max_waiting=9)
    )
    asked = [
        work(f"<s>{n}</s><s>", limits=StoppingCriteria(5, fake_model.CONTEXT)) for n in range(5)
    ]
    made.waiting.extend(given for given, _ in asked)
    order: list[int] = []
    while not made.idle:
        made.step()
        assert made.used_seqs <= 2
        for number, (_, heard) in enumerate(asked):
            if heard.news and number not in order:
                order.append(number)
    assert order == [0, 1, 2, 3, 4]


def test_the_cache_bounds_how_many_long_ones_run_together() -> None:
    made = scheduler(
        SchedulerConfig(max_num_seqs=4, cache_tokens=1000, prefill_tokens=64, max_waiting=9)
    )
    limits = StoppingCriteria(400, fake_model.CONTEXT)
    for _ in range(3):
        made.waiting.append(work(FOREVER, limits=limits)[0])
    made.step()
    assert made.used_seqs == 2, "two of 421 tokens fit into 1000, three do not"


def test_one_that_is_too_long_for_the_cache_runs_alone() -> None:
    made = scheduler(
        SchedulerConfig(max_num_seqs=4, cache_tokens=100, prefill_tokens=64, max_waiting=9)
    )
    given, heard = work(FOREVER, limits=StoppingCriteria(300, fake_model.CONTEXT))
    made.waiting.append(given)
    finish(made)
    assert heard.reason() == "length"


def test_several_answers_to_one_prompt_read_it_once() -> None:
    network = FakeNetwork()
    made = scheduler(network=network)
    sampling = SamplingConfig(greedy=False, temperature=2.0, seed=7)
    given, heard = work(PROMPTS[0], count=3, sampling=sampling)
    made.waiting.append(given)
    finish(made)
    assert [n for kind, n in network.calls if kind == "read"] == [len(given.prompt)]
    texts = [heard.text(index) for index in range(3)]
    assert len(set(texts)) == 3
    assert texts == [as_infer_does(given, number).text for number in range(3)]


def test_a_cancelled_request_gives_its_place_back_and_says_nothing_more() -> None:
    made = scheduler(
        SchedulerConfig(max_num_seqs=1, cache_tokens=16384, prefill_tokens=64, max_waiting=9)
    )
    (first, heard_first), (second, heard_second) = work(FOREVER), work(PROMPTS[3])
    made.waiting.extend([first, second])
    for _ in range(8):
        made.step()
    said = len(heard_first.news)
    first.cancelled = True
    finish(made)
    assert len(heard_first.news) == said and heard_first.failure is None
    assert heard_second.text() == as_infer_does(second).text


@pytest.mark.parametrize("rounds", [0, 1, 6], ids=["waiting", "reading", "answering"])
def test_a_request_whose_time_is_over_is_ended_wherever_it_is(rounds: int) -> None:
    clock = Clock()
    made = scheduler(
        SchedulerConfig(max_num_seqs=2, cache_tokens=16384, prefill_tokens=64, max_waiting=9),
        clock=clock,
    )
    other, heard_other = work(PROMPTS[3])
    given, heard = work(FOREVER * 20 if rounds == 1 else "forever", deadline=200.0)
    made.waiting.extend([given, other])
    for _ in range(rounds):
        made.step()
    clock.now = 200.0
    finish(made)
    assert heard.failure == Failure("timeout", started=rounds > 0)
    assert heard_other.text() == as_infer_does(other).text


def test_a_stop_text_ends_one_and_not_the_others() -> None:
    made = scheduler()
    limits = StoppingCriteria(200, fake_model.CONTEXT, ("fox 狐",))
    (given, heard), (other, heard_other) = work(FOREVER, limits=limits), work(PROMPTS[2])
    made.waiting.extend([given, other])
    finish(made)
    assert heard.reason() == "stop" and "fox" not in heard.text() and len(heard.text()) > 3
    assert heard_other.text() == as_infer_does(other).text


def test_probabilities_are_told_of_every_token_once() -> None:
    made = scheduler()
    given, heard = work(PROMPTS[2], top_logprobs=3)
    made.waiting.append(given)
    finish(made)
    choices = [choice for piece in heard.pieces() for choice in piece.choices]
    assert [c.chosen.token for c in choices] == list(as_infer_does(given).token_ids)
    for choice in choices:
        assert len(choice.top_logprobs) == 3
        assert choice.top_logprobs[0] == choice.chosen, "greedy"


def test_probabilities_are_the_softmax() -> None:
    logits = np.random.default_rng(1).normal(size=50).astype(np.float32)
    exact = np.log(np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum())
    found = choice_of(logits, 7, 4)
    assert found.chosen.logprob == pytest.approx(exact[7])
    assert [c.token for c in found.top_logprobs] == list(np.argsort(-exact)[:4])
    assert choice_of(logits, 7, 0).top_logprobs == ()
    assert len(choice_of(logits, 7, 99).top_logprobs) == 50


def test_clients_take_turns() -> None:
    made = scheduler(
        SchedulerConfig(max_num_seqs=1, cache_tokens=16384, prefill_tokens=64, max_waiting=9)
    )
    order: list[str] = []
    for client, count in (("a", 4), ("b", 2), ("c", 1)):
        for number in range(count):
            given, _ = work(
                "<s>x</s><s>", limits=StoppingCriteria(1, fake_model.CONTEXT), client=client
            )
            given.listen = lambda _, name=f"{client}{number}": order.append(name)
            made.waiting.append(given)
    finish(made)
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_fault_in_one_prompt_fails_no_other_that_is_read_with_it(capfd) -> None:
    made = scheduler()
    asked = [work(f"<s>user: {text}</s><s>") for text in ("hello", "crash", "you")]
    running, heard_running = work(FOREVER, limits=StoppingCriteria(30, fake_model.CONTEXT))
    made.waiting.append(running)
    made.step()
    made.waiting.extend(given for given, _ in asked)
    finish(made)
    (_, heard_good), (_, heard_bad), (_, heard_other) = asked
    assert heard_bad.failure and heard_bad.failure.kind == "fault"
    assert heard_good.text() == as_infer_does(asked[0][0]).text
    assert heard_other.text() == as_infer_does(asked[2][0]).text
    assert heard_running.reason() == "length"
    assert "injected fault of the fake network" in capfd.readouterr().err


def test_a_fault_in_choosing_a_token_fails_its_own_request_only(capfd) -> None:
    made = scheduler()
    bias = {fake_model.VOCABULARY: 1.0}  # beyond the logits; the server refuses it before
    given, heard = work("<s>user: a</s><s>", sampling=SamplingConfig(logit_bias=bias), count=2)
    other, heard_other = work(PROMPTS[0])
    made.waiting.extend([given, other])
    finish(made)
    assert heard.failure and "IndexError" in heard.failure.cause
    assert heard_other.text() == as_infer_does(other).text
    capfd.readouterr()


@pytest.mark.parametrize("part", [7, 64])
def test_logprobs_of_a_prompt_are_those_of_its_tokens(part: int) -> None:
    made = scheduler(
        SchedulerConfig(max_num_seqs=4, cache_tokens=16384, prefill_tokens=part, max_waiting=9)
    )
    given, heard = work(
        "a prompt", num_prompt_logprobs=2, limits=StoppingCriteria(1, fake_model.CONTEXT)
    )
    other, heard_other = work(PROMPTS[0])
    made.waiting.extend([given, other])
    finish(made)
    told = heard.news[0]
    assert isinstance(told, PromptLogprobs) and isinstance(heard.news[1], RequestOutput)
    tokens = list(given.prompt)
    assert [choice.chosen.token for choice in told.choices] == tokens[1:]
    for at, choice in enumerate(told.choices, 1):
        logits = FakeNetwork().logits(tuple(tokens[:at]))
        assert choice == choice_of(logits, tokens[at], 2)
    assert heard_other.text() == as_infer_does(other).text


def test_no_new_tokens_end_a_request_when_its_prompt_is_read() -> None:
    made = scheduler()
    given, heard = work("a prompt", limits=StoppingCriteria(0, fake_model.CONTEXT))
    made.waiting.append(given)
    finish(made)
    assert (heard.text(), heard.reason(), given.tokens) == ("", "length", 0)
    assert not [call for call in made._network.calls if call[0] == "step"]


# ------------------------------------------------------------------------ the thread


@pytest.fixture
def engine():
    made = Engine(
        FakeNetwork(),
        fake_model.text(),
        SchedulerConfig(max_num_seqs=2, cache_tokens=16384, prefill_tokens=64, max_waiting=2),
        Metrics("fake"),
    )
    yield made
    made.stop()


def wait_for(heard: Listener) -> None:
    import time

    end = time.monotonic() + 30
    while time.monotonic() < end:
        if heard.failure or any(
            n.finish_reason for n in heard.news if isinstance(n, RequestOutput)
        ):
            return
        time.sleep(0.002)
    raise AssertionError(f"no end came: {heard.news}")


@pytest.mark.parametrize("fault", ["crash", "stumble"])
def test_a_fault_ends_what_is_under_way_and_the_engine_goes_on(engine, fault: str, capfd) -> None:
    engine.start()
    (bad, heard_bad), (good, heard_good) = work(f"<s>{fault}</s><s>"), work(PROMPTS[0])
    engine.submit([bad])
    wait_for(heard_bad)
    cause = "RuntimeError: injected fault of the fake network"
    assert heard_bad.failure == Failure("fault", started=True, cause=cause)
    engine.submit([good])
    wait_for(heard_good)
    assert heard_good.text() == as_infer_does(good).text
    assert engine.alive
    assert "injected fault of the fake network" in capfd.readouterr().err


def test_a_full_queue_counts_requests_and_not_their_prompts(engine) -> None:
    # The thread is not started: what comes stays.
    engine.submit([work(f"<s>{n}</s><s>", limits=StoppingCriteria(1, 99))[0] for n in range(40)])
    for _ in range(3):  # two places and two that wait
        engine.submit([work("a", limits=StoppingCriteria(1, 99))[0]])
    with pytest.raises(Full) as full:
        engine.submit([work("e")[0]])
    assert 1 <= full.value.retry_after <= 60
    engine.start()


def test_a_client_leaves_room_in_the_queue_for_the_others() -> None:
    space = SchedulerConfig(
        max_num_seqs=1,
        cache_tokens=16384,
        prefill_tokens=64,
        max_waiting=4,
        max_waiting_per_client=2,
    )
    made = Engine(FakeNetwork(), fake_model.text(), space, Metrics("fake"))
    last = [
        work(f"<s>{n}</s><s>", client=f"c{n}", limits=StoppingCriteria(1, 99)) for n in range(4)
    ]
    for _ in range(3):
        made.submit([work("a", client="c0", limits=StoppingCriteria(1, 99))[0]])
    with pytest.raises(Full):
        made.submit([last[0][0]])
    for given, _ in last[1:]:
        made.submit([given])  # a full queue takes one of each client that has none in it
    with pytest.raises(Full):
        made.submit([work("a", client="c1")[0]])
    made.start()
    for _, heard in last[1:]:
        wait_for(heard)
    made.stop()


def test_what_is_under_way_is_finished_while_it_drains(engine) -> None:
    engine.start()
    given, heard = work(PROMPTS[0])
    engine.submit([given])
    engine.drain()
    with pytest.raises(Draining):
        engine.submit([work("x")[0]])
    wait_for(heard)
    assert heard.text() == as_infer_does(given).text


def test_stopping_tells_all_that_wait() -> None:
    made = Engine(
        FakeNetwork(step_seconds=0.001),
        fake_model.text(),
        SchedulerConfig(max_num_seqs=1, cache_tokens=16384, prefill_tokens=64, max_waiting=9),
        Metrics("fake"),
    )
    made.start()
    asked = [work(FOREVER, limits=StoppingCriteria(2000, 4000)) for _ in range(3)]
    made.submit([given for given, _ in asked])
    made.stop()
    assert not made.alive
    assert all(heard.failure and heard.failure.kind == "stopped" for _, heard in asked)
