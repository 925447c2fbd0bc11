"""Renders one chat template, as a process of its own with little time and memory: templates come from strangers.

Reads {"template", "messages", "tokens"} from standard input and writes {"text"} or {"error"} to standard output.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SECONDS = 2  # of processor time
MEMORY = 1 << 29  # bytes of address space
LONGEST = 20_000  # characters of a sample


def render(template: str, messages: list[dict[str, str]], tokens: dict[str, str]) -> str:
    """The text of a conversation, in the environment that transformers gives templates."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: "2026-01-01"  # a sample does not change from day to day
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True, tools=None, **tokens)


def main() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # the caller's clock still runs
    answer: dict[str, Any]
    try:
        answer = {"text": render(**json.load(sys.stdin))[:LONGEST]}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
