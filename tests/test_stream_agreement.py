"""The captured graph against the eager model: what counts as rounding."""

import pytest
import torch

from cnnaudit.errors import GraphError
from cnnaudit.stream.agreement import check_agreement

ELSE = "the captured graph computes something else than the model: their outputs differ by"


@pytest.mark.parametrize(("kind", "near", "far"), [(torch.float32, 5e-4, 2e-3), (torch.bfloat16, 0.03, 0.13)])
def test_outputs_may_differ_by_as_much_as_numbers_of_a_type_round(kind, near, far):
    theirs = torch.tensor([1.0, -4.0], dtype=torch.float64)
    check_agreement((theirs + 4 * near).to(kind), lambda inputs: inputs[0].to(kind), [theirs])
    with pytest.raises(GraphError, match=ELSE):
        check_agreement((theirs + 4 * far).to(kind), lambda inputs: inputs[0].to(kind), [theirs])


def amplifying(factor):
    """A model that makes of a rounding error of its input one as large as factor times that of its output."""

    def model(inputs):
        (x,) = inputs
        return x + factor * (x.double() - torch.ones_like(x)).to(x)

    return model


def test_a_model_that_amplifies_rounding_may_differ_by_as_much():
    # One unit in the last place of 1 is 2^-23 = 1.19e-7; 20,000 of them are .00238, and ten times that .0238.
    x = torch.ones(4)
    check_agreement(x + 0.02, amplifying(20_000), [x])
    with pytest.raises(GraphError, match=ELSE):
        check_agreement(x + 0.03, amplifying(20_000), [x])
    with pytest.raises(GraphError, match=ELSE):
        check_agreement(x + 0.02, amplifying(1), [x])


def test_no_amplification_excuses_a_tenth():
    x = torch.ones(4)
    check_agreement(x + 0.09, amplifying(1_000_000), [x])
    with pytest.raises(GraphError, match=ELSE):
        check_agreement(x + 0.11, amplifying(1_000_000), [x])


def test_a_model_that_does_something_else_each_time_is_not_excused():
    drawn = iter([0.0, 0.002, 0.004])
    with pytest.raises(GraphError, match=ELSE):
        check_agreement(torch.ones(4) + 0.002, lambda inputs: inputs[0] + next(drawn), [torch.ones(4)])


def test_other_shapes_and_other_nans_are_something_else():
    x = torch.ones(4)
    with pytest.raises(GraphError, match=r"the captured graph gives \(3,\), the model \(4,\)"):
        check_agreement(x[:3], lambda inputs: inputs[0], [x])
    with pytest.raises(GraphError, match=ELSE):
        check_agreement(x / 0, lambda inputs: inputs[0], [x])
    check_agreement(x / 0, lambda inputs: inputs[0] / 0, [x])
