import math

import numpy as np
import pytest
import torch

from cnnaudit.statistics.counting import ascending, differing

# 40 images of 12,000 values: more than is taken at once.
LARGE = torch.randint(0, 3, (40, 3, 4000), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("dims", [(2,), (1, 2), (1,)])
def test_differing_counts_places(dims):
    other = LARGE.roll(1, 0)
    expected = (LARGE.numpy() != 1).sum(dims)
    got = differing(LARGE, 1.0, dims)
    assert got.tolist() == expected.tolist()
    assert differing(LARGE, other, dims).tolist() == (LARGE.numpy() != other.numpy()).sum(dims).tolist()


def test_nan_differs_from_everything():
    x = torch.tensor([[0.0, math.nan, 1.0]])
    assert differing(x, 0.0, (1,)).tolist() == [2]
    assert differing(x, x.clone(), (1,)).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_ascending_sorts_the_last_dimension(dtype):
    x = torch.randint(-50, 50, (5, 7, 9), generator=torch.Generator().manual_seed(1)).to(dtype)
    got = ascending(x.transpose(0, 1))
    assert got.dtype == dtype
    assert got.double().tolist() == np.sort(x.transpose(0, 1).double().numpy(), -1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ascending_puts_nan_last(dtype):
    x = torch.tensor([[math.nan, 2.0, -math.inf, 1.0]], dtype=dtype)
    got = ascending(x)[0].tolist()
    assert got[:3] == [-math.inf, 1.0, 2.0]
    assert math.isnan(got[3])
