"""`mergery completion`."""

from __future__ import annotations

from typing import Literal

from mergery.cli.common import flowing


@flowing
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print what makes a shell complete commands, options and their values.

    Parameters
    ----------
    shell
        The shell that shall complete.
    """
    from mergery.cli import app, load_all

    load_all()
    print(app.generate_completion(shell=shell))
