"""What goes in and what comes out, image by image, and how much the latter can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.statistics.image_sample import ImageSample
from cnnaudit.statistics.level_histogram import LevelHistogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Probe, Reading, View

__all__ = ["PairSample"]


class PairSample(ImageSample):
    """An :class:`ImageSample` of two taps, and the :class:`LevelHistogram` of the second of all images.

    Tally: those of both; ``levels`` alone is per group.
    """

    options: ClassVar[Mapping[str, Any]] = {**ImageSample.options, **LevelHistogram.options}
    calibrates = LevelHistogram.calibrates

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return super().size(probe, groups, classes) + LevelHistogram.size(_second(probe), groups, classes)

    def read(self, view: View) -> Reading:
        return super().read(view) | LevelHistogram(_second(self.probe), self.groups).read(view)

    def calibrate(self, readings: Sequence[Reading]) -> None:
        self.levels.calibrate(readings)

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        super().add(reading, groups, first)
        self.levels.add(reading, groups, first)

    @property
    def levels(self) -> LevelHistogram:
        """The histogram, which keeps its grid and its counts here."""
        histogram = LevelHistogram(_second(self.probe), self.groups)
        histogram.calibration, histogram.tally = self.calibration, self.tally
        return histogram


def _second(probe: Probe) -> Probe:
    return replace(probe, statistic=LevelHistogram, taps=probe.taps[1:])
