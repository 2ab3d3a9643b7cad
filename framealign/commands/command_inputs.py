"""What several verbs check before they begin."""
from pathlib import Path
from typing import Any

from framealign.runtime.settings import flag_of


def required(config: Any, *names: str) -> None:
    """Raise ValueError naming the first of these flags that was not given."""
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"{flag_of(name)} is needed; --help shows an example")


def fresh(out: str, resume: bool) -> None:
    """Raise ValueError where the folder `out` holds a checkpoint and it is not to be continued."""
    if not resume and any(Path(out).rglob("checkpoints/[0-9]*")):
        raise ValueError(f"{out}: holds checkpoints; leave out --no-resume to continue, or choose another --out folder")
