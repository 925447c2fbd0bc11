"""The folder of a fusion that was interrupted."""

from __future__ import annotations

import pytest

from mergery.alignment.fusion.running import MARK, take_up
from mergery.errors import PlanError


def test_a_mark_that_a_kill_has_torn_is_refused_in_a_sentence(tmp_path):
    take_up(tmp_path / "out.partial", "this fusion", restart=False)
    mark = tmp_path / "out.partial" / MARK
    for torn in ("", '{"dig', "[]"):
        mark.write_text(torn)
        with pytest.raises(PlanError, match=r"is damaged"):
            take_up(tmp_path / "out.partial", "this fusion", restart=False)
    take_up(tmp_path / "out.partial", "this fusion", restart=True)
    take_up(tmp_path / "out.partial", "this fusion", restart=False)
    with pytest.raises(PlanError, match="holds an unfinished fusion of other models, data or options"):
        take_up(tmp_path / "out.partial", "another", restart=False)
