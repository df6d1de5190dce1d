"""Stages that run at once against the whole: the same digests, in whatever order letters come, in bounded memory."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patience import PATIENCE
from tests.shards import cut, whole
from tests.stages import MUCH, Threads, inner_of, shuffled
from trainer.shards.mail import Abandoned, Letter, Mail
from trainer.shards.memory import order_of, peak_of
from trainer.shards.run import Crossing
from verification.errors import Unavailable

STEPS = 3


def values_of(number: int, size: int) -> torch.Tensor:
    """`size` bytes."""
    return torch.full((size,), number, dtype=torch.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stages", "lead"), [("llama", 3, 1), ("gpt2", 4, 2)])
def test_stages_make_what_the_whole_makes_and_hold_few_letters(name: str, stages: int, lead: int) -> None:
    pieces = inner_of(name, stages)
    threads = Threads(pieces, lead=lead)
    assert threads.trained(whole(name, STEPS).given["inner"], STEPS) == whole(name, STEPS).made["inner"]
    largest = max(each.nbytes for each in whole(name, STEPS).given["inner"])
    for mail in threads.mails:
        assert 0 < mail.most_leaving <= max(threads.room, largest)
        assert mail.most_arrived <= max(threads.room, largest)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "experts"])
@settings(max_examples=1, deadline=None, derandomize=True)
@given(stages=st.integers(2, 4), random=st.randoms(use_true_random=False))
def test_letters_may_come_in_any_order(name: str, stages: int, random: Random) -> None:
    pieces = inner_of(name, stages)
    made = shuffled(pieces, whole(name, STEPS).given["inner"], STEPS, random)
    assert made == whole(name, STEPS).made["inner"]


def test_a_shard_that_leads_by_more_begins_more_parts_and_needs_more_memory() -> None:
    pieces = cut("gpt2", (60,)).pieces["inner"]
    begun = []
    for lead in (1, 2):
        order = order_of(pieces, 0, lead)
        first = next(n for n, each in enumerate(order) if each.parts and not each.is_forward)
        begun.append(len({each.parts for each in order[:first] if each.parts.bit_count() == 1}))
    assert begun == [2, 3]
    assert peak_of(pieces, 0, 2) >= peak_of(pieces, 0, 1)
    assert [each.key for each in order_of(pieces, 1, 2)] == [each.key for each in order_of(pieces, 1, 1)]


def test_who_gives_waits_for_a_slow_taker() -> None:
    """Ten letters of which three have room: the fourth waits until the first is taken."""
    mail, sent, may_send = Mail([1], 30), list[int](), threading.Semaphore(0)

    def send(letter: Letter) -> None:
        assert may_send.acquire(timeout=PATIENCE)
        sent.append(letter.number)

    with ThreadPoolExecutor(2) as pool:
        given = [pool.submit(mail.give, 0, Crossing(n, 1, values_of(n, 10))) for n in range(3)]
        assert all(each.result(PATIENCE) is None for each in given)
        late = pool.submit(mail.give, 0, Crossing(3, 1, values_of(3, 10)))
        delivering = pool.submit(mail.deliver, 1, send)
        may_send.release()
        late.result(PATIENCE)
        assert sent == [0] and mail.most_leaving == 30
        mail.close(Unavailable("over"))
        may_send.release()
        delivering.result(PATIENCE)


def test_who_sends_waits_while_a_stage_computes_and_not_while_it_waits() -> None:
    mail = Mail([], 20)
    with ThreadPoolExecutor(2) as pool:
        for number in range(2):
            mail.arrive(Letter(0, number, values_of(number, 10)))
        third = pool.submit(mail.arrive, Letter(0, 2, values_of(2, 10)))
        assert not third.done()
        assert mail.take(0, 2)[0] == 2, "it is let in for who waits for it"
        third.result(PATIENCE)
        assert mail.most_arrived == 20
        large = pool.submit(mail.arrive, Letter(0, 3, values_of(3, MUCH >> 34)))
        assert [int(mail.take(0, number)[0]) for number in (0, 1, 3)] == [0, 1, 3]
        large.result(PATIENCE)
    assert mail.received == 30 + (MUCH >> 34)


def test_an_execution_that_is_abandoned_ends_for_all_that_wait_and_leaves_nothing() -> None:
    mail = Mail([1], 10)
    mail.give(0, Crossing(0, 1, values_of(0, 10)))
    with ThreadPoolExecutor(3) as pool:
        waiting: list[Future[Any]] = [
            pool.submit(mail.take, 0, 7),
            pool.submit(mail.give, 0, Crossing(1, 1, values_of(1, 10))),
        ]
        mail.abandon(0)
        for each in waiting:
            with pytest.raises(Abandoned):
                each.result(PATIENCE)
        mail.arrive(Letter(0, 7, values_of(7, 10)))  # too late, and forgotten
        mail.arrive(Letter(1, 7, values_of(8, 10)))
        mail.give(1, Crossing(2, 1, values_of(2, 10)))
        sent = list[int]()
        delivering = pool.submit(mail.deliver, 1, lambda letter: sent.append(letter.number))
        assert mail.take(1, 7)[0] == 8
        mail.give(1, Crossing(3, 1, values_of(3, 10)))
        mail.give(1, Crossing(4, 1, values_of(4, 10)))
        assert sent[:1] == [2]
        mail.close(Unavailable("over"))
        delivering.result(PATIENCE)
        with pytest.raises(Unavailable, match="over"):
            mail.take(1, 9)


def test_a_taker_that_is_gone_ends_the_mail() -> None:
    mail = Mail([1], 10)

    def gone(letter: Letter) -> None:
        raise Unavailable("a member of the group is gone")

    mail.give(0, Crossing(0, 1, values_of(0, 10)))
    mail.deliver(1, gone)
    with pytest.raises(Unavailable, match="gone"):
        mail.give(0, Crossing(1, 1, values_of(0, 1)))
