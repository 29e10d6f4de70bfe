"""Two stages at once: order is kept, errors come out where they belong, and little waits in between."""

import threading

import pytest

from siamdiff.sampling.overlap import overlapped


def test_results_come_in_the_order_of_the_items_from_another_thread():
    threads = set()

    def finish(item: int) -> int:
        threads.add(threading.current_thread())
        return item * item

    assert list(overlapped(range(7), finish)) == [0, 1, 4, 9, 16, 25, 36]
    assert threads and threading.main_thread() not in threads


def test_the_next_item_is_made_while_the_last_one_is_finished():
    """Each stage waits for the other to begin: one after the other they would wait for ever."""
    begun = [threading.Event() for _ in range(3)]

    def items():
        for i in range(3):
            if i:
                assert begun[i - 1].wait(timeout=20), "nothing is finished while the next item is made"
            yield i

    def finish(item: int) -> int:
        begun[item].set()
        return item

    assert list(overlapped(items(), finish)) == [0, 1, 2]


def test_no_more_than_one_item_is_made_ahead_of_what_was_taken():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    results = overlapped(items(), lambda item: item)
    next(results)
    assert made == [0, 1]


def test_what_finishing_raises_comes_out_after_the_results_before_it():
    def finish(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    results = overlapped(range(5), finish)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_what_making_raises_comes_out_and_ends_the_thread():
    def items():
        yield 0
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(overlapped(items(), lambda item: item))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("overlapped")]
