"""Events say what happens in one way to all who listen."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from mergery.run import events

PAGE = (Path(__file__).parents[2] / "docs/events.md").read_text()


def test_the_page_lists_every_event_with_its_facts():
    known = [each for each in vars(events).values() if isinstance(each, type) and issubclass(each, events.Event)]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PAGE, re.M)
    assert rows == [
        (each.__name__.lower(), each.__doc__, ", ".join(f"`{fact.name}`" for fact in fields(each)))
        for each in known
        if each is not events.Event
    ]


def test_an_event_is_one_json_object():
    event = events.Progress("merging", 3, 8)
    assert event.plain() == {"event": "progress", "doing": "merging", "bytes": 3, "total": 8}
