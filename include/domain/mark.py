"""Marks: what has to be recomputed because events changed."""

from __future__ import annotations

from typing import NamedTuple


class Mark(NamedTuple):
    """One hour or user to recompute, with the sequence number it had when it was read.

    Clearing a mark removes only that sequence number: a mark that was set again in the meantime stays.
    """

    key: str
    seq: int
