"""Mergeable summaries of tensors."""

from cnnaudit.statistics.activity import ActivityTally
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.batch_sample import BatchSample
from cnnaudit.statistics.class_moments import ClassMoments, Moments, halved
from cnnaudit.statistics.class_responses import ClassResponses
from cnnaudit.statistics.classes import ClassHistogram
from cnnaudit.statistics.covariance import Covariance
from cnnaudit.statistics.cross_moments import CrossMoments
from cnnaudit.statistics.image_sample import ImageSample
from cnnaudit.statistics.level_histogram import LevelHistogram
from cnnaudit.statistics.map_entropy import MapEntropy
from cnnaudit.statistics.pair import PairMoments
from cnnaudit.statistics.pair_sample import PairSample
from cnnaudit.statistics.parameters import Parameters
from cnnaudit.statistics.position_responses import PositionHalves, PositionResponses
from cnnaudit.statistics.projection import project
from cnnaudit.statistics.response_moments import ResponseMoments
from cnnaudit.statistics.sampling import deal, sample_kernels, sample_positions
from cnnaudit.statistics.window_activity import WindowActivity
from cnnaudit.statistics.window_histogram import WindowHistogram
from cnnaudit.statistics.windows import Windows

__all__ = [
    "ActivityTally",
    "BatchSample",
    "ClassHistogram",
    "ClassMoments",
    "ClassResponses",
    "Covariance",
    "CrossMoments",
    "ImageSample",
    "LevelHistogram",
    "MapEntropy",
    "Moments",
    "PairMoments",
    "PairSample",
    "Parameters",
    "PositionHalves",
    "PositionResponses",
    "Probe",
    "ResponseMoments",
    "Statistic",
    "View",
    "WindowActivity",
    "WindowHistogram",
    "Windows",
    "deal",
    "halved",
    "project",
    "sample_kernels",
    "sample_positions",
]
