"""Mergeable summaries of tensors."""

from cnnaudit.statistics.activity import ActivityTally
from cnnaudit.statistics.aliased_energy import AliasedEnergy
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.batch_sample import BatchSample
from cnnaudit.statistics.class_moments import ClassMoments, Moments, halved
from cnnaudit.statistics.class_responses import ClassResponses
from cnnaudit.statistics.classes import ClassHistogram
from cnnaudit.statistics.covariance import Covariance
from cnnaudit.statistics.cross_moments import CrossMoments
from cnnaudit.statistics.gate_values import GateValues
from cnnaudit.statistics.image_moments import ImageMoments
from cnnaudit.statistics.image_sample import ImageSample
from cnnaudit.statistics.level_histogram import LevelHistogram
from cnnaudit.statistics.logit_pairs import LogitPairs, LogitsAndLabels
from cnnaudit.statistics.map_entropy import MapEntropy
from cnnaudit.statistics.pair import PairMoments
from cnnaudit.statistics.pair_covariance import PairCovariance
from cnnaudit.statistics.pair_sample import PairSample
from cnnaudit.statistics.parameters import Parameters
from cnnaudit.statistics.part_moments import PartMoments
from cnnaudit.statistics.pool_sample import PoolSample
from cnnaudit.statistics.position_means import PositionMeans
from cnnaudit.statistics.position_responses import PositionHalves, PositionResponses
from cnnaudit.statistics.projection import project
from cnnaudit.statistics.rectification import Rectification
from cnnaudit.statistics.response_moments import ResponseMoments
from cnnaudit.statistics.sampling import deal, draw_offsets, sample_kernels, sample_positions
from cnnaudit.statistics.shifted_maps import CentreShifts, ShiftErrors, common_positions, shifts
from cnnaudit.statistics.window_activity import WindowActivity
from cnnaudit.statistics.window_covariance import PatchCovariance, WindowCovariance
from cnnaudit.statistics.window_histogram import WindowHistogram
from cnnaudit.statistics.window_moments import WindowMoments
from cnnaudit.statistics.windows import Windows

__all__ = [
    "ActivityTally",
    "AliasedEnergy",
    "BatchSample",
    "CentreShifts",
    "ClassHistogram",
    "ClassMoments",
    "ClassResponses",
    "Covariance",
    "CrossMoments",
    "GateValues",
    "ImageMoments",
    "ImageSample",
    "LevelHistogram",
    "LogitPairs",
    "LogitsAndLabels",
    "MapEntropy",
    "Moments",
    "PairCovariance",
    "PairMoments",
    "PairSample",
    "Parameters",
    "PartMoments",
    "PatchCovariance",
    "PoolSample",
    "PositionHalves",
    "PositionMeans",
    "PositionResponses",
    "Probe",
    "Rectification",
    "ResponseMoments",
    "ShiftErrors",
    "Statistic",
    "View",
    "WindowActivity",
    "WindowCovariance",
    "WindowHistogram",
    "WindowMoments",
    "Windows",
    "common_positions",
    "deal",
    "draw_offsets",
    "halved",
    "project",
    "sample_kernels",
    "sample_positions",
    "shifts",
]
