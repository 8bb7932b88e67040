"""Uncertain quantities: values that know their interval and how surely they clear a bound.

Every class holds one entry for each unit of a site. A reader wants the two-sided interval; a verdict needs
one-sided p-values, because units are combined by partial conjunction. ``p_below`` and ``p_above`` test "the truth
violates this bound" and are small where it is surely kept; ``p_at_least`` and ``p_at_most`` test "the truth keeps
this bound" and are small where it is surely violated. The two kinds differ only for a truth on the bound itself.
"""

from cnnaudit.intervals.auroc import delong
from cnnaudit.intervals.base import Array, Uncertain
from cnnaudit.intervals.binomial import Binomial
from cnnaudit.intervals.bounded import BoundedMean
from cnnaudit.intervals.carried import CarriedMean, CarriedNormal, widened
from cnnaudit.intervals.conjunction import Conjunction
from cnnaudit.intervals.crossing import Crossing
from cnnaudit.intervals.difference import Difference, difference
from cnnaudit.intervals.exact import Exact
from cnnaudit.intervals.independent import Independent
from cnnaudit.intervals.indicator import Indicator, Share
from cnnaudit.intervals.inverted import Inverted
from cnnaudit.intervals.jackknife import Debiased, Jackknife
from cnnaudit.intervals.largest import Largest
from cnnaudit.intervals.linearised import delta_error, linearised_ratio, paired_difference, relative_variance
from cnnaudit.intervals.mapped import Mapped
from cnnaudit.intervals.normal import Normal
from cnnaudit.intervals.rare import RareEvent
from cnnaudit.intervals.rescaled import SQUARED_CORRELATION, Rescaled
from cnnaudit.intervals.sequences import Betting, ConfidenceSequence, EmpiricalBernstein
from cnnaudit.intervals.shifted import Shifted
from cnnaudit.intervals.transformed import FISHER, UNEXPLAINED, Transformed

__all__ = [
    "FISHER",
    "SQUARED_CORRELATION",
    "UNEXPLAINED",
    "Array",
    "Betting",
    "Binomial",
    "BoundedMean",
    "CarriedMean",
    "CarriedNormal",
    "ConfidenceSequence",
    "Conjunction",
    "Crossing",
    "Debiased",
    "Difference",
    "EmpiricalBernstein",
    "Exact",
    "Independent",
    "Indicator",
    "Inverted",
    "Jackknife",
    "Largest",
    "Mapped",
    "Normal",
    "RareEvent",
    "Rescaled",
    "Share",
    "Shifted",
    "Transformed",
    "Uncertain",
    "delong",
    "delta_error",
    "difference",
    "linearised_ratio",
    "paired_difference",
    "relative_variance",
    "widened",
]
