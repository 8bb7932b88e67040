"""Mergeable summaries of tensors."""

from cnnaudit.statistics.activity import ActivityTally
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.class_moments import ClassMoments, Moments, halved
from cnnaudit.statistics.class_responses import ClassResponses
from cnnaudit.statistics.classes import ClassHistogram
from cnnaudit.statistics.pair import PairMoments
from cnnaudit.statistics.sampling import deal, sample_kernels, sample_positions
from cnnaudit.statistics.window_activity import WindowActivity
from cnnaudit.statistics.window_histogram import WindowHistogram
from cnnaudit.statistics.windows import Windows

__all__ = [
    "ActivityTally",
    "ClassHistogram",
    "ClassMoments",
    "ClassResponses",
    "Moments",
    "PairMoments",
    "Probe",
    "Statistic",
    "View",
    "WindowActivity",
    "WindowHistogram",
    "Windows",
    "deal",
    "halved",
    "sample_kernels",
    "sample_positions",
]
