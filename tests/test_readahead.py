import threading

import pytest

from landcover.io.readahead import read_ahead


def test_items_come_in_order_and_whole():
    assert list(read_ahead(iter(range(100)))) == list(range(100))
    assert list(read_ahead([])) == []
    assert list(read_ahead([None, 0, ""])) == [None, 0, ""]


def test_the_next_item_is_computed_while_the_present_one_is_used():
    computed = [threading.Event(), threading.Event()]

    def source():
        for number, event in enumerate(computed):
            event.set()
            yield number

    items = read_ahead(source())
    assert next(items) == 0
    assert computed[1].wait(10)
    items.close()


def test_an_error_comes_at_its_turn():
    def source():
        yield 1
        raise ValueError("broken")

    items = read_ahead(source())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_stopping_early_ends_the_thread_and_closes_the_source():
    closed = threading.Event()

    def source():
        try:
            yield from range(1000)
        finally:
            closed.set()

    before = threading.active_count()
    items = read_ahead(source())
    assert next(items) == 0
    items.close()
    assert closed.is_set()
    assert threading.active_count() == before
