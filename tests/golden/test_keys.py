"""Keyed randomness: the keys of streams, and numbers of theirs at the start and across block and word boundaries."""

from __future__ import annotations

from tests.golden import measure


def test_keys():
    assert measure.keys() == measure.expected("keys")
