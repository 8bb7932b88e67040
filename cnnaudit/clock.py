"""The date of today, read in one place, so that waivers and reports agree on it whatever the time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime

__all__ = ["today"]


def today() -> date:
    """Return today's date in UTC, which is the same on every machine."""
    return datetime.now(UTC).date()
