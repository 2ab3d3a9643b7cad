"""Every default of the project, in frozen dataclasses; the presets; flags and JSON made from them.

A name that Hugging Face's `HubertConfig` has keeps it, so that `HubertConfig` here *is* the `config.json` there.
"""
import argparse
import dataclasses
import inspect
import re
from dataclasses import fields
from pathlib import Path


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def add_flags(parser: argparse.ArgumentParser, config_type: type) -> None:
    """One flag per field (bool, int, float or str): --mask-start-fraction 0.08, --freeze-conv / --no-freeze-conv.

    The comment beside a field is its flag's help. A flag that is not given leaves the preset's or the default value
    alone (`from_flags`).
    """
    comments = dict(re.findall(r"^    (\w+): .*?# (.*)$", inspect.getsource(config_type), re.MULTILINE))
    for item in fields(config_type):
        kind = {"action": argparse.BooleanOptionalAction} if item.type is bool else {"type": item.type}
        words = [comments.get(item.name, ""), f"default {item.default}" if item.default != "" else ""]
        parser.add_argument("--" + item.name.replace("_", "-"), default=None,
                            help="; ".join(filter(None, words)).replace("%", "%%"), **kind)


def from_flags(args: argparse.Namespace, config: object) -> object:
    """`config` with the flags that were given put in."""
    given = {item.name: getattr(args, item.name) for item in fields(config)
             if getattr(args, item.name, None) is not None}
    return dataclasses.replace(config, **given)


def as_dict(config: object) -> dict:
    """Plain data for JSON; tuples become lists, paths strings."""
    plain = lambda x: str(x) if isinstance(x, Path) else list(x) if isinstance(x, tuple) else x
    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}
