import pytest

from controlplane.api.reply_cache import ReplyCache


def test_a_reply_is_found_for_the_version_it_was_made_of():
    cache = ReplyCache(10)
    cache.put(b"q", 1, b"a")
    assert cache.get(b"q", 1) == b"a"
    assert cache.get(b"q", 2) is None
    assert cache.get(b"other", 1) is None


def test_a_newer_version_replaces_an_older_one():
    cache = ReplyCache(10)
    cache.put(b"q", 1, b"old")
    cache.put(b"q", 2, b"new")
    assert cache.get(b"q", 1) is None
    assert cache.get(b"q", 2) == b"new"
    assert cache.held_bytes == 4


def test_it_never_holds_more_than_its_capacity():
    cache = ReplyCache(10)
    for n in range(1000):
        cache.put(b"%d" % n, 1, b"a")
        assert len(cache) <= 10


def test_it_never_holds_more_than_its_bytes():
    cache = ReplyCache(1000, maximum_bytes=1000)
    for n in range(1000):
        cache.put(b"%d" % n, 1, b"x" * (n % 200))
        assert cache.held_bytes <= 1000
        assert cache.held_bytes >= sum(map(len, cache._young)) + sum(map(len, cache._old))


def test_what_is_asked_often_stays():
    cache = ReplyCache(10)
    cache.put(b"hot", 1, b"a")
    for n in range(100):
        cache.put(b"%d" % n, 1, b"a")
        assert cache.get(b"hot", 1) == b"a"


def test_a_reply_as_big_as_the_cache_is_not_kept():
    cache = ReplyCache(10, maximum_bytes=100)
    cache.put(b"q", 1, b"x" * 60)
    assert cache.get(b"q", 1) is None
    assert len(cache) == 0


def test_a_growing_reply_keeps_the_count_of_bytes_right():
    cache = ReplyCache(10, maximum_bytes=400)
    for size in (10, 50, 90, 10, 99, 1):
        cache.put(b"q", size, b"x" * size)
        assert cache.get(b"q", size) == b"x" * size
        assert cache.held_bytes <= 400


def test_everything_can_be_forgotten():
    cache = ReplyCache(10)
    cache.put(b"q", 1, b"a")
    cache.clear()
    assert (cache.get(b"q", 1), len(cache), cache.held_bytes) == (None, 0, 0)


def test_a_cache_without_room_is_refused():
    with pytest.raises(ValueError, match="room"):
        ReplyCache(1)
