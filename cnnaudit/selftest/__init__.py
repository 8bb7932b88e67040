"""Cases whose answers are known, asked of this machine: what a regulated user files as tool validation.

A case is a line of the table ``CASES`` of its group: what is known and from where, and the public route by which the
answer is asked for. A case that fails is a finding about the machine it ran on, or about the versions installed there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cnnaudit.errors import LoadError
from cnnaudit.selftest import information, intervals, kernels, layers, network, pools
from cnnaudit.selftest.bench import Bench
from cnnaudit.selftest.record import Record, machine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnaudit.selftest.case import Case

__all__ = ["GROUPS", "Record", "run"]

GROUPS: Mapping[str, tuple[Case, ...]] = {
    "information": information.CASES,
    "kernels": kernels.CASES,
    "pools": pools.CASES,
    "layers": layers.CASES,
    "intervals": intervals.CASES,
    "network": network.CASES,
}


def run(device: str = "cpu") -> Record:
    """Run every case.

    Args:
        device: Where the cases of the group ``network`` run.

    Raises:
        LoadError: the device cannot be used.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise LoadError(f"--device {device}: it cannot be used ({reason}); name another, such as cpu") from error
    bench = Bench(device)
    results = tuple(case.run(group, bench) for group, cases in GROUPS.items() for case in cases)
    return Record(machine(device), results)
