"""What the parser of the command line refuses, in the user's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from cyclopts import App, ArgumentCollection, CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from mergery.errors import MergeryError, listed


class UsageError(MergeryError):
    """A command line that does not say what can be done."""


def usage_error(error: CycloptsError, app: App) -> UsageError:
    """The parser's error as one of ours, with something to try."""
    command = " ".join(("mergery", *(error.command_chain or ())))
    manual = f"{command} --help"
    argument = error.argument.name if error.argument else ""
    if unknown := unknown_option(app, error):
        return UsageError(f"{command} has no option {unknown!r}", hint=option_hint(app, error, unknown, manual))
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]) if word.startswith("-"):
            return UsageError(f"{command} has no option {word!r} before a command", hint=manual)
        case UnknownCommandError(unused_tokens=["version", *_]):
            return UsageError(f"{command} has no command 'version'", hint="mergery --version")
        case UnknownCommandError(unused_tokens=[word, *_]):
            known = names_of(app, error.command_chain or ())
            return UsageError(f"{command} has no command {word!r}", hint=nearest(word, known, manual))
        case UnknownOptionError():
            word = error.token.keyword or error.token.value
            return UsageError(f"{command} has no option {word!r}", hint=option_hint(app, error, word, manual))
        case UnusedCliTokensError(unused_tokens=[*words]):
            reading = next((name for name in ("--tasks", "--data") if name in options_of(arguments_of(app, error))), "")
            files = [word for word in words if word.endswith(".jsonl")]
            hint = f"{reading} {' '.join(files)}" if files and reading else manual
            return UsageError(f"{listed(words)} is more than {command} takes", hint=hint)
        case MissingArgumentError():
            missing = f"{command} needs {argument}{meaning(app, error)}"
            if greedy := greedy_option(app, error):
                return UsageError(
                    missing, why=f"{greedy} takes all words behind it", hint=f"put {argument} before {greedy}"
                )
            what = f"{error.keyword} needs a value" if error.keyword else missing
            return UsageError(what, hint=f"{usage(app, error)}, as {manual} says")
        case RepeatArgumentError():
            return UsageError(f"{error.token.keyword} is given twice", hint="give it once")
        case CoercionError(token=token) if token is not None:
            wanted = {int: "a whole number", float: "a number"}.get(error.target_type or str)
            choices = error.argument.get_choices() or () if error.argument else ()
            why = f"it must be {wanted}" if wanted else f"it must be one of {', '.join(choices)}" if choices else ""
            return UsageError(f"{argument} is {token.value!r}", why=why, hint=nearest(token.value, choices, manual))
    return UsageError(str(error), hint=manual)


def unknown_option(app: App, error: CycloptsError) -> str:
    """The first word that looks like an option and is none of the command's, where it was taken for something else."""
    if not isinstance(error, UnusedCliTokensError | ValidationError) or not error.command_chain:
        return ""
    known = {name for argument in arguments_of(app, error) for name in argument.names}
    words = (word.partition("=")[0] for word in error.root_input_tokens or ())
    return next((word for word in words if word.startswith("--") and word not in known), "")


def option_hint(app: App, error: CycloptsError, word: str, manual: str) -> str:
    """What to say instead of an option that a command has not."""
    arguments = arguments_of(app, error)
    named = {name for argument in arguments for name in argument.names}
    word = word.partition("=")[0]
    setting = word.lstrip("-").replace("-", "_")
    if word in ("-o", "--out", "--output") and "OUT" in named:
        return f"OUT stands without an option: {usage(app, error)}"
    if word in ("-o", "--output") and "--out" in named:
        return "did you mean '--out'?"
    if "--set" in named and setting in settings():
        return f"a setting stands in the recipe, or --set merge.{setting}=VALUE"
    return nearest(word, options_of(arguments), manual)


def settings() -> set[str]:
    """The names of all methods' settings."""
    from mergery.method import methods

    return {name for method in methods().values() for name in method.settings}


def greedy_option(app: App, error: CycloptsError) -> str:
    """The last option of those that take all words behind them, where it has taken the one that is missing."""
    if error.argument is None or any(name.startswith("-") for name in error.argument.names):
        return ""
    greedy = {name for each in arguments_of(app, error) if each.parameter.consume_multiple for name in each.names}
    words = list(error.root_input_tokens or ())
    used = [place for place, word in enumerate(words) if word in greedy]
    behind = [word for word in words[used[-1] + 1 : used[-1] + 3] if not word.startswith("-")] if used else []
    return words[used[-1]] if len(behind) == 2 else ""


def nearest(word: str, known: Iterable[str], manual: str) -> str:
    """The known word that was perhaps meant, and the help, where all stand."""
    near = difflib.get_close_matches(word.lstrip("-"), [each.lstrip("-") for each in known], n=1)
    dashes = "--" if word.startswith("--") else ""
    return f"did you mean {dashes + near[0]!r}? {manual} has all" if near else manual


def arguments_of(app: App, error: CycloptsError) -> ArgumentCollection:
    """All arguments of the command at hand, with what its help says of them."""
    for name in error.command_chain or ():
        app = app[name]
    return app.assemble_argument_collection(parse_docstring=True)


def meaning(app: App, error: CycloptsError) -> str:
    """What a missing argument is, in the first words of its help, behind a comma."""
    wanted = error.argument.name if error.argument else ""
    told = next((each.parameter.help for each in arguments_of(app, error) if each.name == wanted), "")
    first = re.sub(r" \([^)]*$", "", re.split(r"[.:;](?:\s|$)", " ".join((told or "").split()))[0])
    return f", {first[0].lower()}{first[1:]}" if first else ""


def usage(app: App, error: CycloptsError) -> str:
    """The command with what it needs, such as `mergery merge RECIPE OUT`."""
    names = [each.name for each in arguments_of(app, error) if each.required]
    needed = [f"{name} {name.lstrip('-').upper()}" if name.startswith("--") else name for name in names]
    return " ".join(("mergery", *(error.command_chain or ()), *needed))


def names_of(app: App, chain: Iterable[str]) -> list[str]:
    """The commands behind a chain of commands."""
    for name in chain:
        app = app[name]
    return [name for name in app if not name.startswith("-")]


def options_of(arguments: ArgumentCollection) -> list[str]:
    """The options among arguments."""
    return [name for argument in arguments for name in argument.names if name.startswith("--")]
