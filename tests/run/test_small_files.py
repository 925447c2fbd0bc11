"""Small files that say what is done: whole, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergery.run.output import write_at_once


def test_a_run_that_is_killed_while_it_writes_leaves_what_was_there(tmp_path, monkeypatch):
    file, plain = tmp_path / "done", Path.write_text
    write_at_once(file, "one\n")

    def killed(self: Path, text: str, **given: str) -> int:
        plain(self, text[:2], **given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write_at_once(file, "one\ntwo\n")
    assert file.read_text() == "one\n"
    monkeypatch.undo()
    write_at_once(file, "one\ntwo\n")
    assert (file.read_text(), [each.name for each in tmp_path.iterdir()]) == ("one\ntwo\n", ["done"])
