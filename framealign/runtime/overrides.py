"""Single settings of a preset replaced from the command line: `--set pretrain.updates=500 --set align_clusters=30`."""
import dataclasses

from framealign.runtime.settings import Preset


def parse_settings(settings: list[str]) -> dict[str, str]:
    """["pretrain.updates=500"] -> {"pretrain.updates": "500"}. Raises ValueError for a word without `=`."""
    for word in settings:
        if "=" not in word:
            raise ValueError(f"--set {word}: must read NAME=VALUE, for example pretrain.updates=500")
    return dict(word.split("=", 1) for word in settings)


def with_overrides(chosen: Preset, overrides: dict[str, str]) -> Preset:
    """A preset with settings replaced, all at once: {"pretrain.updates": "500", "align_clusters": "30"}.

    Raises ValueError for a setting that does not exist or has a flag of its own, or a value out of range.
    """
    given: dict[str, dict] = {}
    for name, text in overrides.items():
        part, _, item = name.rpartition(".")
        owner = getattr(chosen, part, None) if part else chosen
        kinds = {f.name: f.type for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
        if kinds.get(item) not in (int, float, bool, str):
            raise ValueError(f"--set {name}: no such setting; for example pretrain.updates=500 or align_clusters=30")
        if item in ("seed", "selection"):
            raise ValueError(f"--set {name}: has a flag of its own, --{item}")
        try:
            value = {"true": True, "false": False}[text.lower()] if kinds[item] is bool else kinds[item](text)
        except (KeyError, ValueError):
            raise ValueError(f"--set {name}={text}: must be of type {kinds[item].__name__}") from None
        given.setdefault(part, {})[item] = value
    try:
        parts = {part: dataclasses.replace(getattr(chosen, part), **values) for part, values in given.items() if part}
        return dataclasses.replace(chosen, **parts, **given.get("", {}))
    except ValueError as error:
        raise ValueError(f"--set {', '.join(overrides)}: {error}") from None
