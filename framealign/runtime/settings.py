"""Settings are frozen dataclasses: their fields give flags, help texts and JSON, and defaults stand nowhere else."""
import argparse
import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from framealign.runtime import log


def require(condition: bool, message: str) -> None:
    """Raise ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def setting(default: Any, help: str) -> Any:
    """A dataclass field with this default, and with the help text of its flag: meaning, unit and range."""
    return dataclasses.field(default=default, metadata={"help": help})


def add_flags(parser: argparse._ActionsContainer, config_type: type, names: Collection[str] = ()) -> None:
    """One flag per `setting` (bool, int, float or str): --mask-start-fraction 0.08, --freeze-conv / --no-freeze-conv.

    A flag that is not given is None, so that the preset's value or the default stays (`from_flags`). parser: or a group
    of one; names: of these settings alone.
    """
    for item in dataclasses.fields(config_type):
        if names and item.name not in names:
            continue
        words = item.metadata["help"]
        if item.type is bool:
            kind = {"action": argparse.BooleanOptionalAction}
            words += f" (default {'on' if item.default else 'off'})"
        else:
            kind = {"type": item.type, "metavar": {int: "N", float: "X"}.get(item.type)}
            if item.default != "":
                words += f" (default {item.default})"
        parser.add_argument(flag_of(item.name), default=None, help=words.replace("%", "%%"), **kind)


def flag_of(name: str) -> str:
    """The flag of a field: "mask_start_fraction" -> "--mask-start-fraction"."""
    return "--" + name.replace("_", "-")


def add_old_names(parser: argparse.ArgumentParser, *flags: str, now: str = "--out") -> None:
    """Understand flags that were renamed, without listing them in the help; one line on stderr gives the new name."""
    for flag in flags:
        parser.add_argument(flag, dest=now.lstrip("-").replace("-", "_"), action=_OldName, now=now, default=None,
                            help=argparse.SUPPRESS)


class _OldName(argparse.Action):
    """Store the value under the new name of the flag."""

    def __init__(self, *args, now: str, **options):
        super().__init__(*args, **options)
        self.now = now

    def __call__(self, parser, namespace, value, option_string=None):
        log.say_once(f"{option_string} is now {self.now} (the old name goes in the next version)")
        setattr(namespace, self.dest, value)


def from_flags(args: argparse.Namespace, config: Any) -> Any:
    """`config` with the flags that were given put in."""
    return dataclasses.replace(config, **given_flags(args, type(config)))


def given_flags(args: argparse.Namespace, config_type: type) -> dict[str, Any]:
    """The values of those fields whose flags were given."""
    values = {item.name: getattr(args, item.name, None) for item in dataclasses.fields(config_type)}
    return {name: value for name, value in values.items() if value is not None}


def as_dict(config: Any) -> dict:
    """Plain data for JSON; tuples become lists, paths strings."""
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return value
