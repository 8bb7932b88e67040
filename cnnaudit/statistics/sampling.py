"""Which positions and kernels are read: seeded by hashes, so that every shard draws the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cnnaudit.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["deal", "draw_images", "draw_offsets", "gather", "sample_kernels", "sample_positions"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _salt(text: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of 64-bit words, which torch only has in its arithmetic form."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _uniform(keys: Tensor) -> Tensor:
    """Hash int64 keys to float64 in [0, 1) (SplitMix64; Steele, Lea & Flood, OOPSLA 2014)."""
    x = keys * _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return _shift(x ^ _shift(x, 31), 11).double() * 2.0**-53


def deal(sources: Tensor, groups: int, seed: int, *, ranked: bool) -> Tensor:
    """Deal sources to groups.

    Args:
        sources: Numbers that stand for sources, int64 of shape (n,).
        groups: Number of groups.
        seed: Seed of the audit.
        ranked: Whether the numbers are 0, 1, 2, ... in the order of the audit: then each run of as many sources as
            there are groups is spread over all of them. Else a source's group is drawn by its number alone.

    Returns:
        The group of each source, int64 of shape (n,). Drawn, because sources may come in a regular order, which
        labels or columns keep time with.
    """
    salt = _salt("groups", seed)
    if not ranked:
        return (_uniform(sources + salt) * groups).long()
    runs, inside = torch.unique(sources // groups, return_inverse=True)
    orders = _uniform(runs[:, None] * groups + torch.arange(groups) + salt).argsort(1)
    return orders[inside, sources % groups]


def draw_images(images: Tensor, seed: int) -> Tensor:
    """Return a number in [0, 1) for each image, float64 of shape (n,): those with the smallest are a random sample.

    It is the same at every site, so that sites are compared on the same images.
    """
    return _uniform(images + _salt("images", seed))


def draw_offsets(images: Tensor, seed: int, draw: int, margins: tuple[int, ...]) -> Tensor:
    """Draw how far each image is shifted: by whole pixels, up to a margin either way in each dimension.

    Args:
        images: Image ids, int64 of shape (n,).
        seed: Seed of the audit.
        draw: Number of the draw; another one shifts the same image otherwise.
        margins: Largest shift in each dimension.

    Returns:
        int64 of shape (n, dimensions).
    """
    axes = torch.arange(len(margins), device=images.device)
    drawn = _uniform(images[:, None] * 1_000_003 + axes + _salt(f"offsets {draw}", seed))
    reach = torch.tensor(margins, device=images.device)
    return (drawn * (2 * reach + 1)).long() - reach


def sample_positions(images: Tensor, site: str, seed: int, positions: int, count: int) -> Tensor:
    """Draw positions for each image: one in each of ``count`` stretches of the flattened map, which is a ring.

    Args:
        images: Image ids, int64 of shape (n,).
        site: Path of the site; together with the id and the seed it decides the draw.
        seed: Seed of the audit.
        positions: Number of positions there are.
        count: Number of positions wanted.

    Returns:
        int64 of shape (n, min(count, positions)): every position with equal probability, none twice for one
        image; all of them in order where there are no more than wanted.
    """
    if positions <= count:
        return torch.arange(positions, device=images.device).expand(len(images), -1)
    steps = torch.arange(count + 1, device=images.device)
    draws = _uniform(images[:, None] * 1_000_003 + steps + _salt(site, seed))
    cuts = steps * positions // count
    chosen = cuts[:-1] + (draws[:, :-1] * cuts.diff()).long()
    # Stretches of whole numbers differ in length; turning the ring makes every position as likely as any other.
    return (chosen + (draws[:, -1:] * positions).long()) % positions


def sample_kernels(site: str, seed: int, units: int, count: int) -> tuple[int, ...]:
    """Draw ``count`` of ``units`` kernels by hash, in ascending order."""
    keys = torch.arange(units) + _salt(f"kernels of {site}", seed)
    return tuple(sorted(_uniform(keys).argsort()[:count].tolist()))


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Gather positions of maps.

    Args:
        x: Maps of shape (n, units, *spatial) in any memory format.
        index: Flattened positions for each image, int64 of shape (n, r).

    Returns:
        Shape (n, r, units).
    """
    last = x.movedim(1, -1)
    if last.is_contiguous():
        # A position of a channels-last map is one contiguous row of all its channels.
        n, units = x.shape[:2]
        rows = last.reshape(-1, units)
        start = torch.arange(n, device=x.device)[:, None] * (len(rows) // n)
        return rows.index_select(0, (index + start).flatten()).reshape(n, -1, units)
    flat = x.flatten(2)
    return flat.gather(2, index[:, None, :].expand(-1, x.shape[1], -1)).transpose(1, 2)
