"""One fold or all, one seed or several, one method or the paper's three: runs what is missing, says the numbers."""
import dataclasses
from pathlib import Path

from framealign.runtime import distributed, log
from framealign.recipe import comparison, recipe, results, stages
from framealign.report import fold_page


def seed_numbers(text: str) -> list[int]:
    """"1,2,3" -> [1, 2, 3]. Raises ValueError for what is no list of different whole numbers."""
    words = [word.strip() for word in text.split(",")] if text else []
    if any(not (word.isascii() and word.isdigit() and len(word) < 10) for word in words) \
            or len({int(word) for word in words}) < len(words):
        raise ValueError(f"--seeds must be different whole numbers separated by commas, got {text!r}")
    return [int(word) for word in words]


def run(config: recipe.SessionConfig, overrides: dict[str, str], pages: bool = True) -> None:
    """Run every fold, method and seed that is asked for, sharing stages; then write results and say the table.

    Seeds have a folder each, `seed1` and so on, below config.out. pages: write `report.html` too.
    Raises ValueError as `session.run_sessions`.
    """
    seeds, methods = seed_numbers(config.seeds), recipe.METHODS if config.method == "all" else [config.method]
    if len(methods) > 1 and config.redo not in ("", "all"):
        raise ValueError(f"--redo {config.redo} is of one method: run it with --method, or redo all of them")
    places = {seed: Path(config.out) / f"seed{seed}" for seed in seeds} or {config.seed: Path(config.out)}
    redone = {seed: stages.Redo(place, config.redo) for seed, place in places.items()}
    for seed, place in places.items():
        for method in methods:
            chosen = dataclasses.replace(config.of(method), seed=seed, seeds="", out=str(place))
            if seeds:
                log.say(f"== seed {seed}")
            if not recipe.run_sessions(chosen, overrides, redone[seed]):
                return                              # nothing was to be run
    for redo in redone.values():                    # at the end: a later seed's interruption redoes no earlier seed
        redo.finish()
    if distributed.rank() == 0:
        for place in places.values() if pages else ():
            for method in methods:
                fold_page.write_all(str(place), method, config.selection, config.session, config.device)
        log.say(summary(config, methods))


def summary(config: recipe.SessionConfig, methods: list[str]) -> str:
    """The table of what was run; also written as `results.json` in each run's folder."""
    for place in comparison.seeds_of(config.out).values():
        for method in methods:
            results.write(place, results.collect(place, method, config.selection))
    if len(methods) > 1:
        return comparison.ablation(config.out, config.selection)
    if config.seeds:
        return comparison.seeds_table(config.out, methods[0], config.selection)
    return results.table(results.collect(config.out, methods[0], config.selection))


def evaluate(run: str, method: str, selection: str) -> str:
    """The table of a run that is there: one method's (the furthest, unless named), or `all` beside each other.

    Of a run over seeds the table of seeds. Raises ValueError where nothing is finished.
    """
    if method == "all":
        return comparison.ablation(run, selection)
    places = comparison.seeds_of(run)
    for place in places.values():
        found = results.collect(place, method or comparison.default_method(place), selection)
        results.write(place, found)
    if "" not in places:
        return comparison.seeds_table(run, found["protocol"]["method"], selection)
    return results.table(found)
