"""When results are looked at, and what that costs."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnaudit.looks import LAST, schedule


def counts(total, **keys):
    return [look.images for look in schedule(total, block=16, **keys)]


@pytest.mark.parametrize(
    ("total", "images"),
    [
        (50, [50]),
        (300, [300]),
        (511, [256, 511]),
        (512, [256, 512]),
        (1200, [304, 608, 1200]),
        (50_000, [400, 784, 1568, 3136, 6256, 12_512, 25_008, 50_000]),
    ],
)
def test_numbers_of_images_double_up_to_the_last(total, images):
    assert counts(total) == images


def test_fewer_looks_are_the_last_ones():
    assert counts(1200, at_most=1) == [1200]
    assert counts(1200, at_most=2) == [608, 1200]
    assert counts(1200, at_most=9) == [304, 608, 1200]


def test_where_only_the_end_of_the_data_tells_its_number_there_is_one_look():
    assert schedule(None, block=16) == (LAST,)
    assert LAST.spent == 1
    assert LAST.last


def test_the_last_look_keeps_half_and_the_others_share_the_rest():
    assert [look.spent for look in schedule(400, block=16)] == [1]
    assert [look.spent for look in schedule(600, block=16)] == [0.5, 0.5]
    assert [look.spent for look in schedule(1200, block=16)] == [0.25, 0.25, 0.5]


@given(st.integers(1, 10**7), st.integers(2, 64), st.none() | st.integers(1, 20))
def test_laws(total, block, at_most):
    looks = schedule(total, block=block, at_most=at_most)
    assert sum(look.spent for look in looks) == pytest.approx(1)
    assert [look.number for look in looks] == list(range(1, len(looks) + 1))
    assert [look.last for look in looks] == [False] * (len(looks) - 1) + [True]
    assert looks[-1].images == total
    assert len(looks) <= (at_most or len(looks))
    for before, after in itertools.pairwise(looks):
        assert before.images % block == 0
        assert 256 <= before.images < after.images
        assert after.images / 2 <= before.images < after.images / 2 + block
