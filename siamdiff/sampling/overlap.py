"""Two stages of work on a sequence, the second in a thread of its own while the first goes on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def overlapped(items: Iterable[T], finish: Callable[[T], U], ahead: int = 1) -> Iterator[U]:
    """What `finish` makes of each item, in their order; it works in one thread while the next item is made in this one.

    What either stage raises comes out here, after the results before it where `finish` raised. Threads help where both
    stages leave Python for most of their time, as PyTorch, zlib and libjpeg do.

    Args:
        items: made one by one as they are asked for.
        finish: called in the other thread, one call at a time.
        ahead: items that may wait or be worked on there while the next one is made.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="overlapped") as thread:
        waiting: deque[Future[U]] = deque()
        try:
            for item in items:
                waiting.append(thread.submit(finish, item))
                while len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)
