"""Papers are cited as they number their sections, and each section beside what it is about.

A citation reads "HuBERT, Sec. II-A" or "alignment paper, Sec. 2.1 and 2.2"; further sections of a paper that was just
named may follow alone, "(Sec. 2.3)". `PAPERS` has every section that may be cited, with its title as the paper prints
it, and the words of which one must stand near the citation.
"""
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "framealign").rglob("*.py"), *(ROOT / "bin").glob("*.py"), ROOT / "README.md",
                *(ROOT / "docs").glob("*.md")])


class Section(NamedTuple):
    title: str
    words: str = ""                                 # a regular expression; "": anything


PAPERS: dict[str, dict[str, Section]] = {
    "HuBERT": {                                     # Hsu et al. 2021
        "I": Section("Introduction"),
        "II": Section("Method"),
        "II-A": Section("Learning the Hidden Units for HuBERT", r"k-means|\bcluster|codebook|centroid|\bunits?\b"),
        "II-B": Section("Representation Learning via Masked Prediction", r"mask|\bloss\b|predict|pretrain|\bcrops?\b"),
        "II-C": Section("Learning with Cluster Ensembles", r"ensemble|\bseveral\b|codebooks"),
        "II-D": Section("Iterative Refinement of Cluster Assignments", r"iterat|refine|\bscratch\b|\bagain\b"),
        "II-E": Section("Implementation",
                        r"\bconv|encoder|Transformer|logit|cosine|position|codeword|waveform|\bsample"),
        "III": Section("Related Work"),
        "IV": Section("Experimental Details"),
        "IV-A": Section("Data", r"\bdata\b|corpus|hours"),
        "IV-B": Section("Unsupervised Unit Discovery", r"MFCC|k-means|\bcluster|codebook|\bunits?\b|scratch"),
        "IV-C": Section("Pre-Training", r"pre-?train|initialis|\btrain|\bloops?\b|scratch"),
        "IV-D": Section("Supervised Fine-Tuning and Decoding", r"fine-tun|decod|CTC"),
        "V": Section("Results", r"result"),
    },
    "wav2vec 2.0": {                                # Baevski et al. 2020
        "2": Section("Model", r"\bconv|Transformer|position|encoder|\bframes?\b"),
        "3.1": Section("Masking", r"mask"),
        "3.2": Section("Objective", r"loss|objective|contrast"),
        "4.2": Section("Pre-training", r"pre-?train|penal|mean square"),
    },
    "alignment paper": {                            # Li et al. 2024; here what each is about
        "2": Section("The proposed method"),
        "2.1": Section("Task-adaptive pretraining", r"task-adaptive|tapt|pretrain|k-means|\bunits?\b"),
        "2.2": Section("Pseudo-emotion units and pretraining on them", r"pseudo|\bunits?\b|align|pretrain|fine-?tun"),
        "2.3": Section("Fine-tuning with attention pooling", r"fine-?tun|attention|pooling|emotion|recogni"),
    },
    "Arthur and Vassilvitskii 2007": {"2.2": Section("The k-means++ algorithm", r"k-means\+\+")},
    "Vaswani et al. 2017": {"3.2": Section("Attention", r"attention"),
                            "3.2.1": Section("Scaled Dot-Product Attention", r"attention")},
}
ALSO_CALLED = {"Hsu et al. 2021": "HuBERT", "Baevski et al. 2020": "wav2vec 2.0", "Li et al. 2024": "alignment paper"}

NUMBER = r"(?:[IVX]+(?:-[A-Z])?|\d+(?:\.\d+)*)\b(?![-.]\w)"
CITATION = re.compile(rf"\bSec\. ({NUMBER}(?:(?:, and |, | and | to ){NUMBER})*)")
NAMED = re.compile("|".join(map(re.escape, [*PAPERS, *ALSO_CALLED])), re.IGNORECASE)
IN_ROMAN = re.compile(r"\b[IVX]+-[A-Z]\b")           # HuBERT's sections
OTHER_FORMS = re.compile(r"\b(?:Secs?|Sects?|Section|section)\.? (?:[IVX]+\b|\d)|§|\bSecs\.|\bSect\.")
ENDS_IN_MARKDOWN = re.compile(r"\n[ \t]*\n|\n(?=\|)|\Z")
ENDS_IN_PYTHON = re.compile(r'(?s:"""(?:(?!""").)*"""\s*)|\n[ \t]*\n'
                            r"|\n(?=[ \t]*(?:yield|return|raise|if|for|with) )|\Z")
REACH = 300                                         # characters around a citation in which its paper and topic stand


def pieces(path: Path) -> Iterator[tuple[int, str]]:
    """(first line, text on one line) of what belongs together: docstrings with the line of their class or function,
    other statements, paragraphs, rows of a Markdown table."""
    text = path.read_text(encoding="utf-8")
    ends = ENDS_IN_PYTHON if path.suffix == ".py" else ENDS_IN_MARKDOWN
    start = 0
    for match in ends.finditer(text):
        piece = text[start:match.start()]
        if match[0].startswith('"""'):
            definitions = [line.start() for line in re.finditer(r"(?m)^[ \t]*(?:class|def) ", piece)]
            definition = definitions[-1] if definitions else len(piece)
            yield text.count("\n", 0, start) + 1, plain(piece[:definition])
            yield text.count("\n", 0, match.start()) + 1, plain(piece[definition:] + match[0])
        else:
            yield text.count("\n", 0, start) + 1, plain(piece)
        start = match.end()


def plain(text: str) -> str:
    """Text on one line, without the signs with which lines of comments and tables begin and end."""
    return re.sub(r"\s*\n[\s#]*", " ", text)


def wrong_citations(text: str, before: str = "") -> list[str]:
    """What is wrong with the citations of a piece of text; `before` is the text in front of it."""
    wrong = []
    citations = list(CITATION.finditer(text))
    for citation in citations:
        paper = paper_before(before + " " + text[:citation.start()])
        if paper is None:
            wrong.append(f"{citation[0]}: of which paper?")
            continue
        topic = around(text, citation, citations)
        for number in re.findall(NUMBER, citation[1]):
            section = PAPERS[paper].get(number)
            if section is None:
                wrong.append(f"{citation[0]}: {paper} has no section {number} that may be cited")
            elif not re.search(section.words, topic, re.IGNORECASE):
                wrong.append(f"{citation[0]}: {paper}'s {number} is \"{section.title}\", which is not what stands here")

    def is_cited(match: re.Match) -> bool:
        return any(citation.start() <= match.start() < citation.end() for citation in citations)

    for number in IN_ROMAN.finditer(text):
        if not is_cited(number):
            wrong.append(f"{number[0]}: write \"HuBERT, Sec. {number[0]}\"")
    for other in OTHER_FORMS.finditer(text):
        if not is_cited(other):
            wrong.append(f"{other[0]}: write \"Sec. \" and the paper's own number")
    return wrong


def paper_before(text: str) -> str | None:
    """The paper that is named last in the end of a text."""
    names = NAMED.findall(text[-REACH:])
    if not names:
        return None
    known = {paper.lower(): paper for paper in PAPERS} | {name.lower(): paper for name, paper in ALSO_CALLED.items()}
    return known[names[-1].lower()]


def around(text: str, citation: re.Match, citations: list[re.Match]) -> str:
    """The text near a citation, up to the citations before and after it; several in a row share theirs."""
    def in_a_row(between: str) -> bool:
        return not re.search(r"\w", NAMED.sub("", between))

    start, end = citation.start(), citation.end()
    for other in reversed(citations):
        if other.end() <= start and in_a_row(text[other.end():start]):
            start = other.start()
    for other in citations:
        if other.start() >= end and in_a_row(text[end:other.start()]):
            end = other.end()
    left = max([other.end() for other in citations if other.end() <= start], default=0)
    right = min([other.start() for other in citations if other.start() >= end], default=len(text))
    return text[max(left, start - REACH):start] + " " + text[end:min(right, end + REACH)]


def wrong_in(path: Path) -> list[str]:
    wrong = []
    before = ""
    for line, text in pieces(path):
        wrong += [f"{path.relative_to(ROOT)}, from line {line}: {message}" for message in wrong_citations(text, before)]
        before = (before + " " + text)[-REACH:]
    return wrong


@functools.cache
def cited() -> dict[str, list[str]]:
    """The files that cite a section, by `paper, Sec. number`, wherever the paper is named right before it."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for _, text in pieces(path):
            for paper, numbers in re.findall(rf"({NAMED.pattern}), Sec\. ((?:{NUMBER}|, | and | to )+)", text):
                for number in re.findall(NUMBER, numbers):
                    places.setdefault(f"{ALSO_CALLED.get(paper, paper)}, Sec. {number}", []).append(path.name)
    return places


@pytest.mark.parametrize("path", [path for path in FILES if CITATION.search(plain(path.read_text(encoding="utf-8")))
                                  or IN_ROMAN.search(path.read_text(encoding="utf-8"))],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_citations_are_right(path):
    assert not wrong_in(path), "\n".join(wrong_in(path))


def test_no_file_cites_in_another_form():
    """Files without any citation of the usual form are looked at too."""
    wrong = [message for path in FILES for message in wrong_in(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module, section", [
    ("kmeans.py", "Arthur and Vassilvitskii 2007, Sec. 2.2"), ("units.py", "HuBERT, Sec. II-A"),
    ("codebook.py", "HuBERT, Sec. II-A"), ("masking.py", "HuBERT, Sec. II-B"), ("objective.py", "HuBERT, Sec. II-B"),
    ("objective.py", "HuBERT, Sec. II-E"), ("model.py", "HuBERT, Sec. II-E"), ("mfcc.py", "HuBERT, Sec. IV-B"),
    ("pretrain.py", "HuBERT, Sec. II-B"), ("finetune.py", "alignment paper, Sec. 2.3"),
    ("recipe.py", "HuBERT, Sec. II-D"), ("emotion_model.py", "alignment paper, Sec. 2.3")])
def test_modules_of_the_method_cite_the_section_they_implement(module, section):
    assert module in cited().get(section, []), f"{module} must cite {section}"


@pytest.mark.parametrize("text", [
    "k-means is HuBERT, Sec. II-B.", "The convolution stack: HuBERT, Sec. II-A.", "MFCC (HuBERT, Sec. III-B)",
    "Masking of spans. HuBERT, Sec. II-A.", "MFCC: HuBERT, Sec. II-E", "the loss (HuBERT, Sec. II-C)",
    "attention pooling (alignment paper, Sec. 2.4)", "convolutions: wav2vec 2.0, Sec. II-A", "k-means: Sec. II-A",
    "| k-means | HuBERT II-A |", "units, HuBERT, Section II-A", "k-means (HuBERT, Secs. II-A and IV-B)",
    "masked prediction (HuBERT, Sec. II-B and II-F)", "masked prediction (HuBERT, Sec. II-B, II-D)",
    "attention, Vaswani et al. 2017, Sec. 3.2.2"])
def test_a_wrong_citation_is_noticed(text):
    assert wrong_citations(text)


@pytest.mark.parametrize("text", [
    "k-means: HuBERT, Sec. II-A.", "MFCC for the first units (HuBERT, Sec. II-A and IV-B)",
    "The loss on masked frames, cosine logits. Hsu et al. 2021, Sec. II-B and II-E.", "see HuBERT, Sec. II",
    "Alignment paper: pseudo-emotion units (Sec. 2.2), attention pooling (Sec. 2.3)",
    "Scaled dot-product attention: Vaswani et al. 2017, Sec. 3.2.1.", "wav2vec 2.0, Sec. 2: convolutions",
    "| span masks | HuBERT, Sec. II-B | `masking.py` |", "30 s, Section headings, and section titles", ""])
def test_a_right_citation_is_none(text):
    assert not wrong_citations(text)


def test_statements_are_looked_at_one_by_one(tmp_path):
    """What is right beside the next statement is wrong beside this one; a class's name is beside its docstring."""
    module = tmp_path / "module.py"
    module.write_text('class Masking:\n    """Of frames. HuBERT, Sec. II-B."""\n    x = 1\n\ndef f():\n'
                      '    yield "Frames", "HuBERT, Sec. II-A"\n    yield "Units of k-means", "HuBERT, Sec. II-A"\n')
    wrong = [len(wrong_citations(text)) for _, text in pieces(module) if CITATION.search(text)]
    assert wrong == [0, 1, 0]


def test_a_citation_may_go_over_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Units by k-means: HuBERT,\nSec. II-A\nand IV-B.\n\n| row | HuBERT, Sec. II-B |\n| units | x |\n")
    texts = [text for _, text in pieces(page)]
    assert texts[0] == "Units by k-means: HuBERT, Sec. II-A and IV-B." and not wrong_citations(texts[0])
    assert "| units" not in texts[1] and wrong_citations(texts[1])
