"""What importers of published corpora share: the walk through the folder, the counts compared, whole or in part.

A corpus's own module says how its names or tables are read (`Entry`), which common words its labels are, and how many
utterances were published (`PublishedCorpus`). Common words are neutral, calm, happy, excited, sad, angry, fear,
disgust, surprise, boredom and so on; no label of a corpus is left out.
"""
import csv
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from framealign.runtime import log
from framealign.sound import audio
from framealign.corpus import annotator_votes
from framealign.corpus.manifest import UtteranceList, excerpt, noting
from framealign.corpus.utterance import Utterance, natural_order

SOUND_SUFFIXES = (".wav", ".flac", ".aiff", ".aif", ".au", ".sph", ".ogg", ".opus", ".mp3")    # the first is taken
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".7z", ".rar")
LISTED = 3                                          # files that a note names, of many
LISTED_CELLS = 4
PART = 100                                          # files that a thread reads before it takes others
SAMPLE = 1000                                       # sounds whose names a guess looks at


class Entry(NamedTuple):
    """What a corpus says of one utterance, as text. `label` is the corpus's own, a key of its table of labels."""
    place: str                                      # the sound file, absolute or relative to the corpus's folder
    label: str
    speaker: str
    session: str
    id: str                                         # of the utterance in its corpus, however often it was copied
    gender: str = ""                                # F or M
    sentence: str = ""
    votes: str = ""                                 # `annotator_votes.cell`
    truth: str = ""                                 # `frame_truth.cell`
    split: str = ""                                 # train, valid or test
    where: str = ""                                 # file:line that says so, if it is not the name


class Counts(NamedTuple):
    """How many utterances a release has: all of them (None: not compared), and by what an entry says, {} likewise."""
    utterances: int | None
    label: Mapping[str, int] = {}                   # by common words; all of them, or those that are compared
    speaker: Mapping[str, int] = {}
    split: Mapping[str, int] = {}


class CorpusFolder:
    """Every file below a folder, without what file managers leave behind: hidden files and `__MACOSX`.

    Raises ValueError for what is no folder, an archive for example, and for one that holds nothing but archives.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if str(root).lower().endswith(ARCHIVE_SUFFIXES) and not self.root.is_dir():
            raise ValueError(f"{root}: an archive, not a folder; unpack it and give the folder")
        if not self.root.is_dir():
            raise ValueError(f"{root}: " + ("a file, not the folder of a corpus" if self.root.exists() else
                                            "no such folder"))
        self.files = sorted(_files_below(self.root))
        self.sounds = [place for place in self.files if place.lower().endswith(SOUND_SUFFIXES)]
        self._absolute = PurePosixPath(os.path.abspath(root))
        self.left_out: list[str] = []               # in words; of the last reading
        self.archives = [place for place in self.files if place.lower().endswith(ARCHIVE_SUFFIXES)]
        if self.archives and len(self.archives) == len(self.files):
            raise ValueError(f"{root}: nothing but archives that are not unpacked ({_listed(self.archives)}); unpack "
                             "them")

    def path(self, place: str) -> PurePosixPath:
        """A file's absolute path: the folder that was given may be that of one speaker or emotion."""
        return self._absolute / place

    def named(self, *names: str) -> list[str]:
        """The files of these names, in any folder and any case."""
        return [place for place in self.files if place.rpartition("/")[2].lower() in names]


@dataclass(frozen=True)
class PublishedCorpus:
    """A corpus as it is published. `entries` gives what its folder holds; or `entry` reads one sound file's absolute
    path, None for a name that is not the corpus's.
    """
    name: str
    example: str                                    # of a file's name
    labels: Mapping[str, str]                       # the corpus's label -> common word
    sessions: str                                   # how the folds are made, in words
    releases: Mapping[str, Counts]                  # release, "" where there is one, -> its counts; {}: not checked
    entry: Callable[[PurePosixPath], Entry | None] | None = None
    entries: Callable[[CorpusFolder, list[str]], Iterable[Entry]] | None = None     # the list gets what is unusable
    looks: Callable[[CorpusFolder], float] | None = None        # see `share_of`, where it is not by `entry`
    has_blank: bool = False                         # files without sound are published too: looked for by decoding
    absent: Sequence[str] = ()                      # ids that are published without sound, or with a damaged one

    def share_of(self, folder: CorpusFolder) -> float:
        """How much of a folder looks like this corpus: the share of its sounds that are named so (of a sample, where
        there are many); by tables, all or nothing.
        """
        if self.looks:
            return self.looks(folder)
        sample = folder.sounds[::1 + len(folder.sounds) // SAMPLE]
        entries = [self._named(folder.path(place)) for place in sample]
        matching = [entry for entry in entries if entry and entry.label in self.labels]
        return len(matching) / max(1, len(sample))

    def read(self, folder: CorpusFolder, allow_partial: bool = False) -> list[Utterance]:
        """The utterances of a folder, every label in common words. Notes say what is left out and how folds are made.

        Files that are named differently and copies of others are left out; so is what is published without sound
        (blank, shorter than 25 ms), which counts as present. Raises ValueError where counts are not the published ones
        or a file cannot be used, naming the first cells and files; with `allow_partial` a note says the same, and
        ValueError is raised where no utterance is left.
        """
        unusable: list[str] = []
        entries = self._entries(folder, unusable)
        utterances = UtteranceList(folder.root)
        counted, silent = [], []
        for entry, length in _with_lengths(self.name, folder.root, entries, self.has_blank):
            with noting(unusable):
                label = self._common_word(entry, folder.root)
                is_known = isinstance(length, ValueError) and entry.id in self.absent
                if is_known or isinstance(length, audio.NothingToHear):
                    silent.append(entry.id)
                else:
                    _add(utterances, entry, label, length)
                counted.append(entry)

        release, cells = self._compared(counted)
        differences = [*unusable_in_words(unusable), *cells_in_words(cells)]
        if silent:
            folder.left_out.append(f"{len(silent)} that are published without sound that can be used "
                                   f"({_listed(silent, 20)})")
        if differences and release:
            differences.append(f"compared with the release of {release}")
        if differences:                             # in one line: a file of another name may be what is missing
            differences += [f"left out: {text}" for text in folder.left_out]
            if folder.archives:
                differences.append(f"archives that are not unpacked: {_listed(folder.archives)}")
        settle(folder.root, self.name, differences, utterances.items, allow_partial)
        if not differences:
            for text in folder.left_out:
                log.say_once(f"{folder.root}: left out: {text}")
            if release:
                log.say_once(f"{folder.root}: {self.name}, the release of {release}")
        if not self.releases:
            log.say_once(f"{folder.root}: releases of {self.name} differ: counts are not compared with any")
        log.say_once(f"{self.name}: session is {self.sessions}")
        return utterances.items

    def _named(self, place: PurePosixPath) -> Entry | None:
        return self.entry(place) if self.entry else None

    def _entries(self, folder: CorpusFolder, unusable: list[str]) -> list[Entry]:
        """What the folder holds, each utterance once, in the order of ids."""
        folder.left_out.clear()
        if self.entries:
            return _each_once(folder, self.entries(folder, unusable), unusable)
        return _each_once(folder, read_names(folder, self._named, self.name, self.example), unusable)

    def _common_word(self, entry: Entry, root: Path) -> str:
        """The common word of an entry's label. Raises ValueError for a label that the corpus does not have."""
        if entry.label not in self.labels:
            raise ValueError(f"{entry.where or root / entry.place}: {excerpt(entry.label)} is no label of {self.name}, "
                             f"whose labels are {', '.join(self.labels)}")
        return self.labels[entry.label]

    def _compared(self, entries: list[Entry]) -> tuple[str, list[str]]:
        """The release whose counts are nearest, and the cells that differ from it: the sum, what is not there at all,
        the others.
        """
        best: tuple[str, list[str]] | None = None
        for release, counts in self.releases.items():
            cells = []
            if counts.utterances is not None:
                cells = differing("", {"utterances": len(entries)}, {"utterances": counts.utterances})
            others = []
            for attribute, expected in counts._asdict().items():
                if attribute == "utterances" or not expected:
                    continue
                values = Counter(getattr(entry, attribute) for entry in entries)
                if attribute == "label":
                    values = Counter(self.labels[entry.label] for entry in entries)
                if sum(expected.values()) != counts.utterances:             # others are there too
                    values = Counter({value: values[value] for value in expected})
                lacking = [value for value in expected if not values[value]]
                if lacking:
                    cells.append(f"{attribute} {', '.join(lacking)}: none")
                others += differing(f"{attribute} ", values, {value: number for value, number in expected.items()
                                                              if value not in lacking})
            cells += others
            if best is None or len(cells) < len(best[1]):
                best = release, cells
        return best or ("", [])


# Pieces that importers with rules of their own use too.

def differing(prefix: str, counts: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """The cells whose count is not the expected one, in words, in natural order of their names."""
    cells = []
    for cell in [*expected, *natural_order(set(counts) - set(expected))]:
        if counts.get(cell, 0) != expected.get(cell, 0):
            cells.append(f"{prefix}{cell}: found {counts.get(cell, 0)}, expected {expected.get(cell, 0)}")
    return cells


def unusable_in_words(unusable: Sequence[str], what: str = "utterances or files") -> list[str]:
    """How many cannot be used, and the first of them: one text, or none."""
    if not unusable:
        return []
    more = " | ..." if len(unusable) > LISTED else ""
    return [f"{len(unusable)} {what} cannot be used ({' | '.join(unusable[:LISTED])}{more})"]


def cells_in_words(cells: Sequence[str]) -> list[str]:
    """The first cells that differ, and how many more do."""
    more = [f"and {len(cells) - LISTED_CELLS} more cells"] if len(cells) > LISTED_CELLS else []
    return [*cells[:LISTED_CELLS], *more]


def settle(where: str | Path, name: str, differences: Sequence[str], utterances: Sequence[Utterance],
           allow_partial: bool, kind: str = "") -> None:
    """Whole, a part, or nothing: raise ValueError, or note the differences, unless the corpus is whole.

    kind: which utterances are wanted, where not all of them are: "of the four classes".
    """
    words = "; ".join(differences)
    if differences and not allow_partial:
        raise ValueError(f"{where}: not the whole {name}: {words}; copy the corpus again, or use what is there with "
                         "--allow-partial")
    if not utterances:
        wanted = f"{kind} " if kind else ""
        raise ValueError(f"{where}: holds no utterance {wanted}that can be used: {words}")
    if differences:
        log.say_once(f"{where}: not the whole {name}: {words}")


def read_names(folder: CorpusFolder, entry: Callable[[PurePosixPath], Entry | None], name: str, example: str
               ) -> list[Entry]:
    """What `entry` reads out of the paths of a folder's sounds; `left_out` says which others there are.

    Raises ValueError where there are only others.
    """
    entries, others = [], []
    for place in folder.sounds:
        one = entry(folder.path(place))
        if one:
            entries.append(one)
        else:
            others.append(place)
    if not entries:
        there = f"there are {len(others)}: {_listed(others)}" if others else "there is no sound file"
        raise ValueError(f"{folder.root}: no sound file is named as in {name}, such as {example} ({there}); give the "
                         "corpus's folder, unpacked, or another --corpus-kind")
    if others:
        folder.left_out.append(f"{len(others)} sound files that are not named as in {name}, such as {example} "
                               f"({_listed(others)})")
    return entries


def votes_cell(votes: Mapping[str, float]) -> str:
    """Votes by common words as a manifest's cell has them, in the order of words."""
    return annotator_votes.cell(sorted(votes.items()))


def csv_rows(path: Path, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(file:line, cells by column) of a table that has these columns; what UTF-8 does not have is replaced.

    Raises ValueError for a file without them.
    """
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        try:
            lacking = [column for column in columns if column not in (reader.fieldnames or ())]
            if lacking:
                raise ValueError(f"{path}:1: the header must name {', '.join(columns)}; {', '.join(lacking)} is not "
                                 "there")
            for row in reader:
                row.pop(None, None)                 # cells beyond the header's
                yield f"{path}:{reader.line_num}", {column: cell or "" for column, cell in row.items()}
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: not a table: {error}") from None


def dealt(speakers: Iterable[str], number: int) -> dict[str, str]:
    """Speaker -> session, "1" to `number`: each goes to the next one, in the order given."""
    return {speaker: str(index % number + 1) for index, speaker in enumerate(speakers)}


def _files_below(root: Path) -> Iterator[str]:
    """Relative paths, with slashes, of all files that are not hidden. A folder is entered once, by links too."""
    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        prefix = Path(folder).relative_to(root).as_posix()
        for name in names:
            if not name.startswith("."):
                yield name if prefix == "." else f"{prefix}/{name}"


def _each_once(folder: CorpusFolder, entries: Iterable[Entry], unusable: list[str]) -> list[Entry]:
    """One entry for each id, in the order of ids. A copy in another format or folder is left out; files of one name and
    format that differ in size are unusable.
    """
    root = folder.root
    by_id: dict[str, list[Entry]] = {}
    for entry in entries:
        by_id.setdefault(entry.id.lower(), []).append(entry)

    chosen, copies = [], []
    for same in by_id.values():
        same.sort(key=lambda entry: (_format(entry), entry.place.count("/"), entry.place))
        first = same[0]
        chosen.append(first)
        for entry in same[1:]:
            if _format(entry) == _format(first) and _size(root, entry) != _size(root, first):
                unusable.append(f"{root / entry.place}: differs from {root / first.place}, which has the same name")
            else:
                copies.append(os.path.relpath(root / entry.place, root))
    if copies:
        folder.left_out.append(f"{len(copies)} sound files that are copies of others ({_listed(copies)})")
    return sorted(chosen, key=lambda entry: entry.id)


def _format(entry: Entry) -> int:
    """Where the format of an entry's file stands in the order of preference."""
    suffix = os.path.splitext(entry.place)[1].lower()
    return SOUND_SUFFIXES.index(suffix) if suffix in SOUND_SUFFIXES else len(SOUND_SUFFIXES)


def _size(root: Path, entry: Entry) -> int:
    path = root / entry.place
    return path.stat().st_size if path.exists() else 0


def _add(utterances: UtteranceList, entry: Entry, label: str, length: int | ValueError) -> None:
    """Add one utterance. Raises ValueError naming file, and line if there is one, for what cannot be used."""
    if isinstance(length, ValueError):
        raise ValueError(f"{entry.where}: {length}" if entry.where else str(length))
    where = entry.where or str(utterances.folder / entry.place)
    utterances.add(where, entry.place, str(length), id=entry.id, label=label, speaker=entry.speaker,
                   gender=entry.gender, session=entry.session, style=entry.sentence, votes=entry.votes,
                   truth=entry.truth, split=entry.split)


def _with_lengths(name: str, root: Path, entries: Sequence[Entry], has_blank: bool
                  ) -> Iterator[tuple[Entry, int | ValueError]]:
    """Each entry with its sound's samples at 16 kHz, or with what is wrong with it. has_blank: it is decoded, too."""
    def lengths(some: Sequence[Entry]) -> list[int | ValueError]:
        return [_length(os.path.join(root, entry.place), has_blank) for entry in some]

    parts = [entries[start:start + PART] for start in range(0, len(entries), PART)]
    with ThreadPoolExecutor(4) as pool:             # on a network's disk it is the waiting that counts
        read = itertools.chain.from_iterable(pool.map(lengths, parts))
        yield from zip(entries, log.progress(read, len(entries), f"reading {name}", "utterances"))


def _length(path: str, is_decoded: bool) -> int | ValueError:
    """Samples at 16 kHz, or what is wrong with the file. is_decoded: by its sound, not by its header alone."""
    try:
        return len(audio.load(path)) if is_decoded else audio.length(path)
    except ValueError as error:
        return error
    except OSError as error:
        return ValueError(str(error))


def _listed(names: Sequence[str], number: int = LISTED) -> str:
    """The first names, on one line whatever they hold."""
    more = ", ..." if len(names) > number else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:number]) + more
