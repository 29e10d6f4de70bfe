"""Who is blamed for a group that stands still, and what signals do to a job."""

import os
import signal
import time

import pytest

from infra import signals
from infra.supervisor import Pulse, Sight, Supervisor, stuck
from siamdiff.errors import StoppedError
from siamdiff.training.context import SingleProcess
from siamdiff.training.wish import Wish


def sight(rank: int, *, silent: float = 0.5, still: float = 700, is_waiting: bool = True) -> Sight:
    return Sight(Pulse(rank, 100 + rank, "node", "host", 7, 3, is_waiting), silent, still)


def blamed(*sights: Sight) -> list[int]:
    return [sight.pulse.rank for sight in stuck(list(sights), 600)]


def test_nobody_is_blamed_while_the_group_moves() -> None:
    assert blamed() == []
    assert blamed(sight(0, still=599), sight(1, still=10, is_waiting=False)) == []


def test_the_worker_that_is_not_heard_of_is_blamed_and_not_those_that_wait_for_it() -> None:
    assert blamed(sight(0), sight(1, silent=650, is_waiting=False), sight(2, is_waiting=False)) == [1]


def test_of_workers_that_are_heard_of_the_one_is_blamed_that_the_others_wait_for() -> None:
    assert blamed(sight(0), sight(1, is_waiting=False), sight(2)) == [1]


def test_where_all_wait_all_are_blamed() -> None:
    assert blamed(sight(0), sight(1)) == [0, 1]


def test_a_supervisor_hands_on_what_is_wanted_and_forgets_the_workers_of_an_earlier_attempt() -> None:
    supervisor = Supervisor()
    assert supervisor.look("first", Wish.NOTHING, "") == []
    pulse = sight(0).pulse
    assert supervisor.pulse("first", pulse) == (Wish.NOTHING, "")
    time.sleep(0.1)
    supervisor.pulse("first", pulse)
    (seen,) = supervisor.look("first", Wish.STOP, "SIGTERM")
    assert seen.silent < 0.1 <= seen.still
    assert supervisor.pulse("first", pulse) == (Wish.STOP, "SIGTERM")
    assert supervisor.look("second", Wish.NOTHING, "") == []
    supervisor.pulse("first", pulse)
    assert supervisor.look("second", Wish.NOTHING, "") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_wish_for_the_loop(number: signal.Signals) -> None:
    before, context = signal.getsignal(number), SingleProcess()
    with signals.watched(lambda why: context.ask(Wish.STOP, why)) as stop:
        assert context.agree(Wish.NOTHING, 1) == Wish.NOTHING
        os.kill(os.getpid(), number)
        assert context.agree(Wish.CHECKPOINT, 2) == Wish.STOP
        assert (stop.why, context.why()) == (number.name, number.name)
    assert signal.getsignal(number) == before


def test_a_second_interrupt_does_not_wait() -> None:
    with signals.watched(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as a job manager may: changes nothing
        os.kill(os.getpid(), signal.SIGINT)


def test_the_grace_ends_a_block_that_goes_on() -> None:
    def late() -> None:
        raise StoppedError("too late")

    with signals.watched(lambda _: stop.limit(0.2, late)) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError, match="too late"):
            time.sleep(10)
    with signals.watched(lambda _: stop.limit(0.2, late)) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.4)  # it ended in time: nothing comes after
