"""Which utterances a protocol trains, selects and tests on, one session held out at a time.

Pure lists, no files: `manifest.py` reads and writes them. Which labels are classes is chosen here. The five protocols
(`--selection`) differ in what the number means, so each says here in one place which utterances it looks at before the
test.
"""
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from framealign.runtime import files, log
from framealign.runtime.seeds import derive_seed
from framealign.corpus import annotator_votes, folds, frame_truth
from framealign.corpus.utterance import (CLASSES, MERGED, Utterance, check_class_names, class_of, names_of,
                                         natural_order)

SELECTIONS = ("clean", "last", "speaker", "reference", "best-test")
OPTIMISTIC = ("reference", "best-test")             # protocols that look at the test session before the test
MAX_NAMED = 10                                      # labels in a note


@dataclass(frozen=True)
class Split:
    """What to train on, select on (empty: no selection) and test on, and a name for it, safe as a file name."""
    train: list[Utterance]
    valid: list[Utterance]
    test: list[Utterance]
    name: str

    def parts(self) -> Iterator[tuple[str, list[Utterance]]]:
        """(name in messages, utterances) of each part."""
        yield "training", self.train
        yield "validation", self.valid
        yield "test", self.test


def split(utterances: Iterable[Utterance], session: str, selection: str, validate_on: str = "session",
          classes: Sequence[str] = CLASSES, allow_missing_classes: bool = False, allow_shared_speakers: bool = False
          ) -> list[Split]:
    """The splits of one fold, which holds `session` out, among the labelled utterances. By `selection`:

    - `clean`: validation is the session after the held-out one (after the last comes the first), or with `validate_on`
      "speaker" that session's first speaker by name; the rest trains, the held-out session tests. One split.
    - `last`, and `best-test`, which selects on the test part itself: no validation. One split.
    - `speaker`, and `reference`, which differs in what is reported: each speaker of the held-out session is tested
      once while the session's others validate, so two splits for a session of two speakers, three for three.

    Where sessions are the parts of a fixed split (`folds.is_fixed_split`), `train` alone trains, and validation of
    `clean` is `valid`.

    Raises ValueError for an unknown session or selection; too few sessions or speakers; utterances without a session,
    or without a speaker where the protocol needs one; two sessions or speakers whose names differ in spelling alone; a
    class that a part has no utterance of (of validation and test unless `allow_missing_classes`); a fixed split
    without the part that is needed; and, outside `reference` and `best-test` and unless `allow_shared_speakers`, a
    speaker in two parts.
    """
    if selection not in SELECTIONS or validate_on not in ("session", "speaker"):
        raise ValueError(f"selection must be one of {', '.join(SELECTIONS)} and validate_on session or speaker, "
                         f"got {selection} and {validate_on}")
    labelled = [utterance for utterance in utterances if utterance.label]
    if not labelled:
        raise ValueError("no utterance has a label, nothing to train or test on; fill in the manifest's column label")
    is_fixed = folds.is_fixed_split(labelled)
    needs_three = selection == "clean" and validate_on == "session"
    if is_fixed:
        _check_parts_of_fixed(labelled, selection, validate_on)
    sessions = _sessions(labelled, session, at_least=3 if needs_three else 2)
    _check_spelling(labelled)
    held_out = [utterance for utterance in labelled if utterance.session == session]
    others = [utterance for utterance in labelled if utterance.session != session]
    if is_fixed and selection != "clean":
        others = [utterance for utterance in others if utterance.session == folds.TRAINED]
    name = f"session{session}"

    if selection in ("last", "best-test"):
        splits = [Split(others, [], held_out, name)]
    elif selection == "clean":
        following = folds.VALIDATED if is_fixed else sessions[(sessions.index(session) + 1) % len(sessions)]
        valid = [utterance for utterance in others if utterance.session == following]
        if validate_on == "speaker":
            speaker = _speakers(valid, following)[0]
            valid = [utterance for utterance in valid if utterance.speaker == speaker]
        valid_ids = {utterance.id for utterance in valid}
        train = [utterance for utterance in others if utterance.id not in valid_ids]
        splits = [Split(train, valid, held_out, name)]
    else:
        splits = []
        speakers = _speakers(held_out, session)
        for speaker in reversed(speakers):          # of two, the first validates first
            valid = [utterance for utterance in held_out if utterance.speaker != speaker]
            test = [utterance for utterance in held_out if utterance.speaker == speaker]
            validating = "-".join(other for other in speakers if other != speaker)
            splits.append(Split(others, valid, test, f"{name}-valid-{validating}"))

    for one in splits:
        check_classes(one, classes, f"holding out session {session}", allow_missing_classes)
        if selection not in OPTIMISTIC and not allow_shared_speakers:
            check_speakers(one)
    return splits


def with_label_share(split: Split, share: float, seed: int) -> Split:
    """The same split where a share (0 < share <= 1) of what is known before the test keeps its label: the rest of the
    training and validation parts is left out, to be heard as unlabelled sound. The test stays whole.

    Of each class of a part the nearest whole number of utterances stays, at least one, and of each speaker about the
    same share. Which ones, follows from the seed and their ids: the utterances of a share are among those of every
    larger one, whatever the order of the table.
    """
    return dataclasses.replace(split, train=_labelled_share(split.train, share, seed),
                               valid=_labelled_share(split.valid, share, seed))


def _labelled_share(part: Sequence[Utterance], share: float, seed: int) -> list[Utterance]:
    """The utterances of a part that keep their label, in their order.

    Systematic sampling of each class: number r of the n utterances of a speaker and class stands at (r + offset) / n,
    and the first ones are taken. The offsets of a class's speakers, and of a speaker's classes, are evenly spaced.
    """
    def drawn(kind: str, name: str) -> tuple[int, str]:
        return derive_seed(seed, "label share", kind, name), name

    classes = sorted({utterance.label for utterance in part}, key=lambda name: drawn("class", name))
    speakers = sorted({utterance.speaker for utterance in part}, key=lambda name: drawn("speaker", name))
    alike: dict[tuple[str, str], list[str]] = {}
    for utterance in part:
        alike.setdefault((utterance.label, utterance.speaker), []).append(utterance.id)

    chosen: set[str] = set()
    for c, name in enumerate(classes):
        places: list[tuple[float, tuple[int, str]]] = []
        for s, speaker in enumerate(speakers):
            ids = sorted(drawn("utterance", one) for one in alike.get((name, speaker), []))
            offset = (c / len(classes) + s / len(speakers)) % 1
            places += [((r + offset) / len(ids), one) for r, one in enumerate(ids)]
        number = max(1, math.floor(share * len(places) + 0.5))
        chosen.update(one for _, (_, one) in sorted(places)[:number])
    return [utterance for utterance in part if utterance.id in chosen]


def pretraining_utterances(utterances: Sequence[Utterance], session: str, data: str) -> list[Utterance]:
    """What the stages before fine-tuning of one fold train on, labelled or not.

    `transductive`: everything, the held-out session's sound (never its labels) included, as in the reference.
    `inductive`: everything but the held-out session. Raises ValueError for another word or an unknown session.
    """
    if data not in ("transductive", "inductive"):
        raise ValueError(f"pretraining data must be transductive or inductive, got {data}")
    if data == "transductive":
        return list(utterances)
    _sessions([utterance for utterance in utterances if utterance.session], session, at_least=2)
    return [utterance for utterance in utterances if utterance.session != session]


def class_names(text: str) -> list[str]:
    """"neutral, happy" -> ["neutral", "happy"]. Raises ValueError for fewer than two, an empty or a repeated name."""
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise ValueError(f"--classes must be two or more different names separated by commas, got {text!r}")
    check_class_names(names, "--classes")
    return names


def merged_labels(text: str, classes: Sequence[str]) -> dict[str, str]:
    """What labels count as, in lower case: "excited=happy, calm=neutral" -> {"excited": "happy", "calm": "neutral"}.

    "none": nothing is merged. "": the default, excited counts as happy unless it is a class of its own. Raises
    ValueError for a text of another form, a label that is named twice or is a class (or a spelling of one), or a class
    that there is not.
    """
    known = {name.lower() for name in classes}
    if not text:
        return {label: name for label, name in MERGED.items() if name in known and label not in known}
    merged: dict[str, str] = {}
    for part in text.split(",") if text.strip().lower() != "none" else []:
        label, _, name = (word.strip().lower() for word in part.partition("="))
        if not label or not name or "=" in name:
            raise ValueError(f"--merge must be label=class, several separated by commas, or none, got {text!r}")
        if merged.setdefault(label, name) != name:
            raise ValueError(f"--merge counts {label} as {merged[label]} and as {name}; choose one of them")
    for label, name in merged.items():
        if name in merged:
            raise ValueError(f"--merge goes in a circle or a chain: {label} counts as {name}, and {name} as "
                             f"{merged[name]}; name a class for each label")
        own = class_of(label, classes, {})
        if own:
            raise ValueError(f"--merge would take the class {own} away, {label} into {name}; leave {own} out of "
                             f"--classes ({','.join(classes)}), or {label} out of --merge")
        if name not in known:
            raise ValueError(f"--merge counts {label} as {name}, which is no class; classes: {', '.join(classes)}")
    return merged


def merged_words(merged: Mapping[str, str]) -> str:
    """What labels count as, in words for records: "excited into happy", or "none"."""
    return ", ".join(f"{label} into {name}" for label, name in merged.items()) or "none"


def of_classes(utterances: Sequence[Utterance], classes: Sequence[str], merge: str = "") -> list[Utterance]:
    """The same utterances, each with the class that its label names, and no label where it names none of them.

    Those are left out of fine-tuning and test, as unlabelled ones are; a note counts them. Of the votes, those for
    classes stay. merge: `merged_labels`; what it says holds for the truth about frames, too. Raises ValueError where no
    label names a class, or none is one that is to be merged.
    """
    merged = merged_labels(merge, classes)
    if merge:
        check_merged(utterances, classes, merged)
        log.say_once(f"merged: {merged_words(merged)}")
    chosen = named_by_classes(utterances, classes, merge)
    others = Counter(u.label for u, one in zip(utterances, chosen) if u.label and not one.label)
    if not others:
        return chosen
    listed = ", ".join(f"{label} {count}" for label, count in others.most_common(MAX_NAMED))
    if len(others) > MAX_NAMED:
        listed += f" and {len(others) - MAX_NAMED} more labels"
    if not any(utterance.label for utterance in chosen):
        raise ValueError(f"no label is one of the classes {', '.join(classes)}; there are: {listed}; "
                         "choose others with --classes")
    log.say_once(f"{others.total()} utterances with labels that are no class ({listed}) are left out of fine-tuning "
                 f"and test; classes: {', '.join(classes)}")
    return chosen


def named_by_classes(utterances: Sequence[Utterance], classes: Sequence[str], merge: str = "") -> list[Utterance]:
    """`of_classes` without a note or a check of the labels."""
    merged = merged_labels(merge, classes)
    chosen = [dataclasses.replace(utterance, label=class_of(utterance.label, classes, merged),
                                  votes=annotator_votes.of_classes(utterance.votes, classes, merged))
              for utterance in utterances]
    return [_with_merged_truth(utterance, classes, merged) for utterance in chosen] if merge else chosen


def check_merged(utterances: Iterable[Utterance], classes: Sequence[str], merged: Mapping[str, str]) -> None:
    """Raise ValueError for a label that is to be merged and that no utterance has, in any spelling."""
    labels = Counter(utterance.label for utterance in utterances if utterance.label)
    there_are = {name for label in labels for name in names_of(label, classes, merged)}
    for label in merged:
        if label not in there_are:
            listed = ", ".join(name for name, _ in labels.most_common(MAX_NAMED)) or "none"
            raise ValueError(f"--merge names {label}, and no utterance has that label; there are: {listed}")


def _with_merged_truth(utterance: Utterance, classes: Sequence[str], merged: Mapping[str, str]) -> Utterance:
    """The same utterance, the truth about its frames by the names of the classes that its emotions count as."""
    if not frame_truth.exists(utterance):
        return utterance
    known = frame_truth.named(frame_truth.stretches(utterance), classes, merged)
    return dataclasses.replace(utterance, truth=tuple(known))


def check_speakers(split: Split) -> None:
    """Raise ValueError naming a speaker (where speakers are known) who is in two of train, valid and test."""
    first_use: dict[str, tuple[str, Utterance]] = {}
    for part, utterances in split.parts():
        for utterance in utterances:
            first, other = first_use.setdefault(utterance.speaker, (part, utterance))
            if utterance.speaker and first != part:
                raise ValueError(f"{split.name}: speaker {utterance.speaker} is in the {first} part ({other.id}) and "
                                 f"in the {part} part ({utterance.id}); the result would be optimistic: give each "
                                 "speaker one session, or take it so, marked: --allow-shared-speakers, or --selection "
                                 f"{', '.join(OPTIMISTIC)}")


def check_classes(split: Split, classes: Sequence[str], where: str, allow_missing: bool) -> None:
    """Raise ValueError where train, valid (unless empty) or test has no utterance of one of the classes.

    allow_missing: valid and test may lack classes (not all), and scores are then over the others. where: in the
    message.
    """
    for part, utterances in split.parts():
        if not utterances and part == "validation":
            continue
        missing = missing_classes(utterances, classes)
        if not missing or (allow_missing and part != "training" and len(missing) < len(classes)):
            continue
        sessions = ", ".join(natural_order({utterance.session for utterance in utterances})) or "none"
        way_out = "" if part == "training" else "take UA over the others with --allow-missing-classes, "
        raise ValueError(f"{where}: the {part} part (of session {sessions}) has no utterance labelled "
                         f"{' or '.join(missing)}; {way_out}hold out another session, choose another --selection, or "
                         "leave the class out")


def missing_classes(utterances: Iterable[Utterance], classes: Sequence[str]) -> list[str]:
    """The classes that none of the utterances is labelled with."""
    labels = {utterance.label for utterance in utterances}
    return [name for name in classes if name not in labels]


def check_parts(split: Split, classes: Sequence[str], selection: str) -> None:
    """Raise ValueError for a class without training utterances, a part that the protocol needs, or another label."""
    missing = missing_classes(split.train, classes)
    if missing:
        raise ValueError(f"{split.name}: no training utterance of {', '.join(missing)}; train on more sessions, or "
                         "leave the class out")
    for part in ("train", "valid", "test"):
        for utterance in getattr(split, part):
            if utterance.label not in classes:
                raise ValueError(f"{split.name}: utterance {utterance.id} of the {part} part has the label "
                                 f"{utterance.label or '(none)'}, which is not one of {', '.join(classes)}")
    if not split.test:
        raise ValueError(f"{split.name}: no utterance to test on")
    if selection not in ("last", "best-test") and not split.valid:
        raise ValueError(f"{split.name}: selection {selection} needs validation utterances; give some, or choose last")


def split_digest(split: Split) -> str:
    """Digest of who is in which part of a split, with which label, and with which votes where there are some."""
    return files.digest_of([[(u.id, u.label, *u.votes) for u in part]
                            for part in (split.train, split.valid, split.test)])


def _check_parts_of_fixed(utterances: Sequence[Utterance], selection: str, validate_on: str) -> None:
    """Raise ValueError where a fixed split lacks a part that the protocol needs, or a protocol another validation."""
    there_are = {utterance.session for utterance in utterances}
    needed = [folds.TRAINED, folds.TESTED, *([folds.VALIDATED] if selection == "clean" else [])]
    for part in needed:
        if part not in there_are:
            way_out = ", or choose --selection last, which selects nothing" if part == folds.VALIDATED else ""
            raise ValueError(f"the split has no labelled utterance in the part {part}, which selection {selection} "
                             f"needs; fill in the manifest's column split{way_out}")
    if selection == "clean" and validate_on == "speaker":
        raise ValueError("--validate-on speaker takes a speaker out of the training sessions; a fixed split says who "
                         f"validates: its part {folds.VALIDATED}")


def _check_spelling(utterances: Sequence[Utterance]) -> None:
    """Raise ValueError where two sessions or two speakers are one but for case, blanks or leading zeros: 1 and 01."""
    for kind in ("session", "speaker"):
        spelt: dict[str, str] = {}                  # plain name -> name as written
        for name in sorted({getattr(utterance, kind) for utterance in utterances}):
            plain = re.sub("(?<![0-9])0+(?=[0-9])", "", name.strip().casefold())
            other = spelt.setdefault(plain, name)
            if other != name:
                raise ValueError(f"{kind} {other!r} and {kind} {name!r} differ in spelling alone, and would be two: "
                                 "write one of them as the other, or rename it")


def _sessions(utterances: Sequence[Utterance], session: str, at_least: int) -> list[str]:
    """Names of the sessions in order. Raises ValueError where `session` is none of them or they are too few."""
    for utterance in utterances:
        if not utterance.session:
            raise ValueError(f"utterance {utterance.id} has no session, and a session must be held out; "
                             "fill in the manifest's column session")
    sessions = natural_order({utterance.session for utterance in utterances})
    if session not in sessions:
        raise ValueError(f"no utterance of session {session}; there are: {', '.join(sessions) or 'none'}")
    if len(sessions) < at_least:
        raise ValueError(f"session {session} cannot be held out: the protocol needs at least {at_least} sessions "
                         f"with labels, there are {len(sessions)} ({', '.join(sessions)})")
    return sessions


def _speakers(utterances: Sequence[Utterance], session: str) -> list[str]:
    """Names of a session's speakers, sorted. Raises ValueError where they are not known or fewer than two."""
    speakers = sorted({utterance.speaker for utterance in utterances})
    if len(speakers) < 2 or "" in speakers:
        known = "utterances without a speaker" if "" in speakers else f"one speaker ({', '.join(speakers)})"
        raise ValueError(f"session {session} has {known}; validating on one of a session's speakers needs two or more")
    return speakers

