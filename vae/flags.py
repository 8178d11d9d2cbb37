"""The fields of a configuration class as command-line flags."""

import argparse
import typing
from collections.abc import Sequence
from dataclasses import Field, fields
from operator import ge, gt, le, lt
from typing import Any, NoReturn

from vae.errors import UserError

BOUNDS = {"at_least": ge, "above": gt, "at_most": le, "below": lt}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help shows all flags)")


def read_flags(
    config_class: type, argv: Sequence[str] | None, description: str | None, **defaults: Any
) -> Any:
    """Return the configuration: the fields' defaults, over them defaults, over them the flags.

    Raises UserError if a flag is unknown, or a value of the wrong type or out of range.
    """
    given = vars(make_parser(config_class, description, **defaults).parse_args(argv)).items()
    try:
        config = config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in given})
        check(config)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    return config


def make_parser(config_class: type, description: str | None, **defaults: Any) -> _Parser:
    """Return the parser of a configuration's flags; it checks types and choices alone."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = _Parser(description=description, allow_abbrev=False, formatter_class=formatter)
    hints = typing.get_type_hints(config_class)
    for entry in fields(config_class):
        parser.add_argument(as_flag(entry.name), **_argument(entry, hints[entry.name]))
    parser.set_defaults(**defaults)
    return parser


def as_flag(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")


def check(config: Any) -> None:
    """Raise ValueError, naming the flag, if a field breaks a rule that it declares."""
    for entry in fields(config):
        flag, rules, value = as_flag(entry.name), entry.metadata, getattr(config, entry.name)
        for one in value if isinstance(entry.default, tuple) else () if value is None else (value,):
            if "choices" in rules and one not in rules["choices"]:
                raise ValueError(f"{flag} must be one of {', '.join(rules['choices'])}; got {one}")
            if one == "" and "const" not in rules:
                raise ValueError(f"{flag} is empty")
            for name, obeys in BOUNDS.items():
                if name in rules and not obeys(one, rules[name]):  # nan obeys none
                    bound = f"{name.replace('_', ' ')} {rules[name]}"
                    raise ValueError(f"{flag} must be {bound}; got {one}")


def _argument(entry: Field, hint: Any) -> dict[str, Any]:
    """Return what argparse needs to know of a field; --help shows defaults that can be typed."""
    argument = {k: rule for k, rule in entry.metadata.items() if k not in {*BOUNDS, "fixed"}}
    default = entry.default
    argument["default"] = argparse.SUPPRESS if isinstance(default, tuple | None) else default
    hint, *_ = typing.get_args(hint) or [hint]  # of `int | None` and of `tuple[int, ...]`: int
    if isinstance(default, tuple):
        argument["nargs"] = "+"
        if default:
            argument["help"] += f" (default: {' '.join(map(str, default))})"
    if hint is bool:
        return argument | {"action": argparse.BooleanOptionalAction}
    argument.setdefault("metavar", None if "choices" in argument else hint.__name__.upper())
    return argument | {"type": hint}
