"""What the verbs' command lines share: a parser whose help is the verb's docstring, and the flags of several verbs.

A verb runs as `bin/VERB.py` of a checkout, or as `framealign VERB` where the package is installed; its help and its
messages name the one it was started by.
"""
import argparse
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from framealign.runtime import allocator, distributed, settings


def program(verb: str) -> str:
    """How a verb is typed: "bin/units.py" where this process runs a script of `bin/`, else "framealign units"."""
    script = Path(sys.argv[0])
    is_script = script.suffix == ".py" and script.resolve().parent.name == "bin"
    return f"bin/{verb}.py" if is_script else f"framealign {verb}"


def parser(verb: str, text: str, names: str = "") -> argparse.ArgumentParser:
    """The parser of a verb.

    text: its module's docstring, whose examples read `bin/VERB.py ...`; names: what it takes beside flags, for the line
    of usage, which does not repeat the flags.
    """
    usage = " ".join(filter(None, [program(verb), "[options]", names]))
    return argparse.ArgumentParser(prog=program(verb), usage=usage, description=as_typed(text),
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def as_typed(text: str) -> str:
    """A text with every `bin/VERB.py` as `program` gives it; torchrun starts an installed package with -m."""
    text = re.sub(r"(torchrun .*?)bin/(\w+)\.py", lambda match: match[1] + _module(match[2]), text)
    return re.sub(r"(?<!\S)bin/(\w+)\.py", lambda match: program(match[1]), text)


def _module(verb: str) -> str:
    name = program(verb)
    return name if name.startswith("bin/") else f"-m {name}"


def add_overrides(parser: argparse.ArgumentParser, of: str) -> None:
    """--set NAME=VALUE, any number of times, as the list `overrides`. of: what the settings belong to."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
                        help=f"replace one setting of {of}, e.g. pretrain.updates=500 (may be repeated)")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """What verbs that train take beside their settings: --tensorboard, and the old names of --out."""
    settings.add_old_names(parser, "--run", "--run-folder")
    parser.add_argument("--tensorboard", action="store_true",
                        help="also write TensorBoard's event files (needs the package tensorboard)")


@contextlib.contextmanager
def ranks(device: str) -> Iterator[None]:
    """The ranks of a verb that computes for long, on a device of this name; freed memory is kept for the next step."""
    allocator.keep_freed_memory()
    with distributed.ranks(distributed.choose_device(device)):
        yield
