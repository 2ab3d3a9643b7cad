"""Corpora whose labels stand in tables beside the sound: IEMOCAP with every label, CREMA-D's votes, MELD, both MSP."""
import csv
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import published_trees
import pytest
import soundfile

from framealign.corpus import manifest
from framealign.corpus.importers import corpus_kinds, published_corpus
from framealign.corpus.importers.published_corpus import CorpusFolder
from framealign.corpus.utterance import Utterance


@pytest.fixture
def no_headers(monkeypatch):
    """Every sound file that is there has 400 samples: its header is not read."""
    def length(path: str, is_decoded: bool) -> int | ValueError:
        return 400 if Path(path).exists() else ValueError(f"{path}: no such file")

    monkeypatch.setattr(published_corpus, "_length", length)


def read(root: Path, kind: str, allow_partial: bool = False) -> list[Utterance]:
    return corpus_kinds.read(CorpusFolder(root), kind, allow_partial)


def refused(root: Path, kind: str, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(root, kind)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def table(path: Path, header: str, rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


# IEMOCAP

SUMMARY = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral; Anger;\t()
C-E4:\tNeutral;\t()
C-F1:\tSadness;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M000\txxx\t[2.5000, 2.5000, 2.5000]
C-E2:\tFrustration;\t()
C-E3:\tOther;\t(bored)
C-M1:\tNeutral state;\t()
"""


def iemocap_tree(root: Path) -> Path:
    """Every label as often as it was published, in dialogues of 150."""
    counts = {"neu": 1708, "ang": 1103, "sad": 1084, "hap": 595, "exc": 1041, "fru": 1849, "sur": 107, "fea": 40,
              "dis": 2, "oth": 3, "xxx": 2507}
    labels = [label for label, number in counts.items() for _ in range(number)]
    random.Random(0).shuffle(labels)
    paths = []
    for start in range(0, len(labels), 150):
        session = start // 150 % 5 + 1
        dialogue = f"Ses0{session}F_impro{start // 750 + 1:02}"
        lines = []
        for number, label in enumerate(labels[start:start + 150]):
            name = f"{dialogue}_{'FM'[number % 2]}{number:03}"
            lines.append(f"[1.0 - 2.0]\t{name}\t{label}\t[2.5, 2.5, 2.5]\nC-E1:\tAnger;\t()\n")
            paths.append(f"Session{session}/sentences/wav/{dialogue}/{name}.wav")
        evaluation = root / f"Session{session}/dialog/EmoEvaluation/{dialogue}.txt"
        evaluation.parent.mkdir(parents=True, exist_ok=True)
        evaluation.write_text("".join(lines))
        (evaluation.parent / f"._{dialogue}.txt").write_bytes(b"\0\5")
    return published_trees.write(root, paths)


def test_iemocap_with_every_label(no_headers, tmp_path, capsys):
    root = iemocap_tree(tmp_path / "IEMOCAP_full_release")
    assert corpus_kinds.guess(CorpusFolder(tmp_path)) == "iemocap"              # a folder above it does, too
    utterances = read(tmp_path, "iemocap")
    assert Counter(u.label for u in utterances) == {
        "neutral": 1708, "angry": 1103, "sad": 1084, "happy": 595, "excited": 1041, "frustrated": 1849, "surprise": 107,
        "fear": 40, "disgust": 2, "other": 3, "no agreement": 2507}
    assert {(u.session, u.speaker, u.gender, u.style) for u in utterances} == {
        (str(session), f"Ses0{session}{gender}", gender, "impro") for session in range(1, 6) for gender in "FM"}
    assert all(u.votes == (("angry", 1.0),) for u in utterances)
    assert "not the whole" not in capsys.readouterr().err
    next((root / "Session3/sentences/wav").rglob("*.wav")).unlink()
    refused(tmp_path, "iemocap", "1 utterances or files cannot be used", "no such file", "Session3/dialog/EmoEval")
    (root / "Session3/dialog/EmoEvaluation/Ses03F_impro02.txt").unlink()
    refused(tmp_path, "iemocap", "label neutral: found 16", ", expected 1708; label angry: found 1", ", expected 1103")


def test_votes_of_iemocaps_evaluators(tmp_path):
    """Who names two gives each a half; self-reports and attributes are no votes; labels without agreement stay."""
    evaluation = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    evaluation.parent.mkdir(parents=True)
    evaluation.write_text(SUMMARY)
    published_trees.write(tmp_path, [f"Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_{turn}.wav"
                                     for turn in ("F000", "M000")])
    first, second = read(tmp_path, "iemocap", allow_partial=True)
    assert first.votes == (("angry", 0.5), ("neutral", 2.5)) and first.label == "neutral"
    assert second.votes == (("frustrated", 1.0), ("other", 1.0)) and second.label == "no agreement"
    evaluation.write_text(SUMMARY.replace("\tneu\t", "\tjoyful\t"))
    refused(tmp_path, "iemocap", f"{evaluation}:3: must read", "IEMOCAP's labels")
    only, = read(tmp_path, "iemocap", allow_partial=True)
    assert only == second


# CREMA-D

VOTES = """"","A","D","F","H","N","S","fileName","numResponses"
"100001",0,0,0,1,10,0,"1001_DFA_NEU_XX",11
"100002",2,0,0,6,2,0,"1001_DFA_HAP_XX",10
"200001",9,0,0,0,0,0,"1001_DFA_NEU_XX",9
"""
RESPONSES = """"","localid","pos","ans","queryType","clipName","respEmo","respLevel"
"1","a",1,"N_80",1,"1001_DFA_NEU_XX","N",80
"2","b",2,"N_80",1,"1001_DFA_NEU_XX","N",80
"3","c",3,"H_10",1,"1001_DFA_NEU_XX","H",10
"4","d",4,"A_10",2,"1001_DFA_NEU_XX","A",10
"5","e",4,"A_10",1,"1001_DFA_NEU_XX","","NA"
"""


def test_votes_of_crema_d_on_the_sound_alone(tmp_path):
    published_trees.write(tmp_path, ["AudioWAV/1001_DFA_NEU_XX.wav", "AudioWAV/1001_DFA_HAP_XX.wav",
                                     "AudioMP3/1001_DFA_NEU_XX.mp3"])
    (tmp_path / "finishedResponses.csv").write_text(RESPONSES)
    happy, neutral = read(tmp_path, "crema-d", allow_partial=True)
    assert neutral.votes == (("happy", 1.0), ("neutral", 2.0)) and happy.votes == () and happy.label == "happy"
    assert neutral.path == tmp_path / "AudioWAV/1001_DFA_NEU_XX.wav"
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults/tabulatedVotes.csv").write_text(VOTES)
    happy, neutral = read(tmp_path, "crema-d", allow_partial=True)
    assert neutral.votes == (("happy", 1.0), ("neutral", 10.0))
    assert happy.votes == (("angry", 2.0), ("happy", 6.0), ("neutral", 2.0))
    (tmp_path / "processedResults/tabulatedVotes.csv").write_text("a,b\n1,2\n")
    refused(tmp_path, "crema-d", "tabulatedVotes.csv:1: the header must name fileName, N, H, S, A, F, D")


def test_blank_files_of_crema_d_count_and_are_left_out(tmp_path, capsys, monkeypatch):
    """Silence throughout, and a sound shorter than a frame: found by decoding, named, the corpus whole without them."""
    paths = [file.path for file in published_trees.files_of("crema-d")]
    real = published_corpus._length
    blank = {"1076_MTI_SAD_XX": np.zeros(16_000), "1001_IEO_NEU_XX": np.ones(20)}
    assert {f"AudioWAV/{name}.wav" for name in blank} <= set(paths)
    root = published_trees.write(tmp_path / "c", paths)
    for name, samples in blank.items():
        (root / f"AudioWAV/{name}.wav").unlink()
        soundfile.write(root / f"AudioWAV/{name}.wav", samples, 16_000)
    monkeypatch.setattr(published_corpus, "_length",
                        lambda path, is_decoded: real(path, is_decoded) if Path(path).stem in blank else 400)
    utterances = read(root, "crema-d")
    assert len(utterances) == 7440 and not {u.id for u in utterances} & set(blank)
    assert "left out: 2 that are published without sound that can be used (1001_IEO_NEU_XX, 1076_MTI_SAD_XX)" in (
        capsys.readouterr().err)


# MELD

FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
COLUMNS = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"


def meld_tree(root: Path, damaged: bool = True) -> list[tuple[str, str, str, str]]:
    """(id, common word, speaker, part) of a whole MELD, its tables and sounds written; the damaged films have none."""
    counts = {"neutral": 6434, "joy": 2308, "surprise": 1636, "anger": 1607, "sadness": 1002, "disgust": 361,
              "fear": 358}
    words = {"joy": "happy", "anger": "angry", "sadness": "sad"}
    people = ["Chandler", "Joey", "Monica", "Phoebe", "Rachel", "Ross", "Ross/Joey", "Joey's Date", "1st Girl"]
    labels = [label for label, number in counts.items() for _ in range(number)]
    random.Random(0).shuffle(labels)
    labels_of = {"train": labels[:9988], "dev": labels[9988:9988 + 1108], "test": labels[-2610:]}
    lost = {"train": (125, 3), "dev": (110, 7)} if damaged else {}
    expected, paths = [], []
    for part, folder in FOLDERS.items():
        keys = [(number // 13, number % 13) for number in range(len(labels_of[part]) + 1)]
        keys = [key for key in keys if key != {"train": (125, 3), "dev": (110, 7)}.get(part)][:len(labels_of[part])]
        rows = []
        for (dialogue, utterance), label in zip(keys, labels_of[part]):
            speaker = people[(dialogue + utterance) % len(people)]
            rows.append([1, "Oh\u2019 my, \"God\"!", speaker, label, "positive", dialogue, utterance, 1, 1, "0", "1"])
            prefix = "final_videos_test" if part == "test" and utterance == 5 else ""
            paths.append(f"{folder}/{prefix}dia{dialogue}_utt{utterance}.wav")
            if prefix:
                paths.append(f"{folder}/dia{dialogue}_utt{utterance}.wav")
            expected.append((f"{part}_dia{dialogue}_utt{utterance}", words.get(label, label),
                             speaker.replace("/", " and "), part))
        if part in lost:
            rows.insert(7, [1, "lost", "Ross", "neutral", "neutral", *lost[part], 1, 1, "0", "1"])
        table(root / f"{part}_sent_emo.csv", COLUMNS, rows)
    published_trees.write(root, paths)
    return expected


@pytest.mark.parametrize("damaged", [True, False])
def test_a_whole_meld(no_headers, damaged, tmp_path, capsys):
    root = tmp_path / "MELD.Raw"
    expected = meld_tree(root, damaged)
    assert corpus_kinds.guess(CorpusFolder(root)) == "meld"
    utterances = read(root, "meld")
    parts = {"train": "train", "dev": "valid", "test": "test"}
    assert {(u.id, u.label, u.speaker, u.split) for u in utterances} == {
        (id, label, speaker, parts[part]) for id, label, speaker, part in expected}
    assert Counter(u.split for u in utterances) == {"train": 9988, "valid": 1108, "test": 2610}
    leads = ("Chandler", "Joey", "Monica", "Phoebe", "Rachel", "Ross")
    assert {(u.speaker, u.session, u.gender) for u in utterances if u.session != "7"} == {
        (lead, str(number), "MMFFFM"[number - 1]) for number, lead in enumerate(leads, 1)}
    assert {u.speaker for u in utterances if u.session == "7"} == {"Ross and Joey", "Joey's Date", "1st Girl"}
    later = [u for u in utterances if u.split == "test" and u.id.endswith("utt5")]
    assert later and later == [u for u in utterances if "final_videos_test" in u.path.name]
    notes = capsys.readouterr().err
    assert f"MELD, the release of train {9988 + damaged}, dev {1108 + damaged}, test 2610\n" in notes
    assert ("without sound that can be used (dev_dia110_utt7, train_dia125_utt3)" in notes) == damaged
    manifest.write(tmp_path / "meld.tsv", utterances[::50])
    assert manifest.read(tmp_path / "meld.tsv") == utterances[::50]


def test_meld_without_sound_and_in_part(no_headers, tmp_path):
    table(tmp_path / "dev_sent_emo.csv", COLUMNS, [[1, "a", "Ross", "joy", "positive", 0, 0, 1, 1, "0", "1"],
                                                  [2, "b", "Ross", "joy", "positive", 0, 1, 1, 1, "0", "1"]])
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dia0_utt0.mp4").write_bytes(b"film")
    refused(tmp_path, "meld", f"{tmp_path}: 1 films and no sound; extract it first, in this folder: find . -name",
            "ffmpeg -i")
    published_trees.write(tmp_path, ["dev/dia0_utt0.wav"])
    refused(tmp_path, "meld", f"{tmp_path}/dev_sent_emo.csv:3: {tmp_path}/dev/dia0_utt1.wav: no such file",
            "utterances: found 1, expected 137", "split train, test: none")
    only, = read(tmp_path, "meld", allow_partial=True)
    assert (only.id, only.label, only.split) == ("dev_dia0_utt0", "happy", "valid")
    table(tmp_path / "dev_sent_emo.csv", COLUMNS.replace("Emotion", "Feeling"), [])
    refused(tmp_path, "meld", "dev_sent_emo.csv:1: the header must name Speaker, Emotion, Dialogue_ID, Utterance_ID; "
            "Emotion is not there")


# MSP-IMPROV

@pytest.mark.parametrize("name, total", [("Evaluation.txt", 8438), ("Evalution.txt", 100)])
def test_msp_improv(no_headers, name, total, tmp_path, capsys):
    """8,438 utterances: labels, votes of the lines below them, speakers and sessions of the names."""
    draw, lines, paths, expected = random.Random(0), [], [], {}
    words = {"A": "angry", "H": "happy", "S": "sad", "N": "neutral", "O": "other", "X": "no agreement"}
    for number in range(total):
        session, gender, label = number % 6 + 1, "FM"[number // 6 % 2], draw.choice("AHSNOX")
        text, scenario = f"S{number // 12 % 20 + 1:02}{draw.choice('AHSN')}", draw.choice("PRST")
        stem = f"{text}-{gender}{session:02}-{scenario}-{gender}M{number:04}"
        lines.append(f"UTD-IMPROV-{stem}.avi; {label}; A:2.4; V:NaN; D:2.8 ; N:3.0;")
        lines += ["WORKER1; Angry; A:1.0;", "WORKER2; Neutral; A:2.0;", "WORKER3; Angry; A:2.0;", ""]
        paths.append(f"Audio/session{session}/{text}/{scenario}/MSP-IMPROV-{stem}.wav")
        expected[f"MSP-IMPROV-{stem}"] = (words[label], f"{gender}{session:02}", gender, str(session),
                                          f"{text}-{scenario}", (("angry", 2.0), ("neutral", 1.0)))
    root = published_trees.write(tmp_path / "MSP", paths)
    (root / name).write_text("\n".join(lines))
    assert corpus_kinds.guess(CorpusFolder(root)) == "msp-improv"
    is_whole = total == 8438
    utterances = read(root, "msp-improv", allow_partial=not is_whole)
    assert {u.id: (u.label, u.speaker, u.gender, u.session, u.style, u.votes) for u in utterances} == expected
    assert ("not the whole" in capsys.readouterr().err) != is_whole
    (root / paths[0]).unlink()
    (root / name).write_text("\n".join([*lines, "UTD-IMPROV-S01A.avi; A;", "WORKER9; Sad;"]))
    refused(root, "msp-improv", f"utterances: found {total - 1}, expected 8438", f"{root / name}:1: {root}/session1/",
            f"{Path(paths[0]).name}: no such file",
            "must read UTD-IMPROV-S01A-F01-P-FM01.avi; label; ..., got 'UTD-IMPROV-S01A.avi; A;'")
    assert {u.votes for u in read(root, "msp-improv", allow_partial=True)} == {(("angry", 2.0), ("neutral", 1.0))}


# MSP-Podcast

PODCAST = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"


@pytest.mark.parametrize("name", ["labels_consensus.csv", "labels_concensus.csv"])
def test_msp_podcast(name, tmp_path, capsys):
    letters = {"A": "angry", "C": "contempt", "D": "disgust", "F": "fear", "H": "happy", "N": "neutral", "O": "other",
               "S": "sad", "U": "surprise", "X": "no agreement"}
    parts = {"Train": "train", "Development": "valid", "Validation": "valid", "Test1": "test", "Test2": "test",
             "Test3": "test"}
    rows, expected, draw = [], set(), random.Random(0)
    for number in range(60):
        letter, part = list(letters)[number % 10], list(parts)[number % 6]
        speaker = draw.choice(["Unknown", "30", "Spkr_7"])
        gender = draw.choice(["Male", "Female", "Unknown"])
        file = f"MSP-PODCAST_0001_{number:04}.wav"
        rows.append([file, letter, 4.0, 3.0, 4.0, speaker, gender, part])
        session = {"Unknown": "unknown", "30": "1", "Spkr_7": "3"}[speaker]
        expected.add((file[:-4], letters[letter], "" if speaker == "Unknown" else speaker, session,
                      {"Male": "M", "Female": "F", "Unknown": ""}[gender], parts[part]))
    table(tmp_path / "Labels" / name, PODCAST, rows)
    published_trees.write(tmp_path, [f"Audios/{row[0]}" for row in rows])
    assert corpus_kinds.guess(CorpusFolder(tmp_path)) == "msp-podcast"
    utterances = read(tmp_path, "msp-podcast")
    assert {(u.id, u.label, u.speaker, u.session, u.gender, u.split) for u in utterances} == expected
    assert "releases of MSP-Podcast differ: counts are not compared with any" in capsys.readouterr().err
    assert not any(u.votes for u in utterances)
    table(tmp_path / "Labels/labels_detailed.csv", "FileName,EmoClass_Major,EmoClass_Second",
          [[rows[0][0], "Angry", "Angry,Sad"], [rows[0][0], "Other-Annoyed", ""], [rows[0][0], "Angry", ""]])
    assert read(tmp_path, "msp-podcast")[0].votes == (("angry", 2.0), ("other", 1.0))
    table(tmp_path / "Labels/labels_detailed.csv", "FileName,EmoDetail",
          [[rows[0][0], "WORKER00000325; Sad; Sad,Concerned; A:2.0; V:3.0; D:1.0;"]])
    assert read(tmp_path, "msp-podcast")[0].votes == (("sad", 1.0),)
    (tmp_path / "Audios" / rows[5][0]).unlink()
    refused(tmp_path, "msp-podcast", f"{name}:7: {tmp_path}/Audios/{rows[5][0]}: no such file")
    table(tmp_path / "Labels" / name, PODCAST, [*rows, ["x.wav", "Q", 1, 1, 1, "3", "Male", "Train"]])
    refused(tmp_path, "msp-podcast", f"{name}:62: 'Q' is no label of MSP-Podcast, whose labels are A, C, D, F")


# ZED

def test_zed_by_its_folder(tmp_path):
    sound = published_trees.noise(tmp_path / "ZED/wav/1.wav", 16_000)
    entry = {"wav": "datafolder/wav/1.wav", "duration": 1.0, "emotion": [{"emo": "sad", "start": 0.2, "end": 0.7}]}
    (tmp_path / "ZED/ZED.json").write_text(json.dumps({"one": entry}))
    assert corpus_kinds.guess(CorpusFolder(tmp_path)) == "zed"
    refused(tmp_path, "zed", f"{tmp_path}/ZED/ZED.json: not the whole ZED: 1 utterances, expected 180")
    only, = read(tmp_path, "zed", allow_partial=True)
    assert only.path == sound and only.label == "sad" and [*only.truth[0]] == [0.2, 0.7, "sad"]


@pytest.mark.parametrize("kind, words", [
    ("iemocap", "no Session1 to Session5"), ("meld", "no sound dia*_utt*.wav"), ("msp-improv", "no Evaluation.txt"),
    ("msp-podcast", "no labels_consensus.csv"), ("zed", "no ZED.json"), ("crema-d", "there are 3: ")])
def test_the_folder_of_another_corpus(kind, words, tmp_path):
    published_trees.write(tmp_path, [file.path for file in published_trees.files_of("savee")[:3]])
    with pytest.raises(ValueError) as caught:
        read(tmp_path, kind, allow_partial=True)
    assert str(caught.value).startswith(f"{tmp_path}: ") and words in str(caught.value)


@pytest.mark.parametrize("kind", ["emodb", "nemo"])
def test_samples_of_real_corpora(kind, shared, tmp_path):
    """Some files of corpora that were cut to four classes: fields and lengths as in the manifest made from them."""
    name = {"emodb": "emodb4/emodb4.tsv", "nemo": "emotion/nemo.tsv"}[kind]
    words = {"anger": "angry", "happiness": "happy", "sadness": "sad"}
    with open(shared / name, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[::43]
    expected = {}
    for row in rows:
        place = (shared / name).parent / row["path"]
        (tmp_path / place.name).symlink_to(place)
        label = row.get("label") or row["emotion"]
        expected[place.stem] = (int(row["num_samples"]), row["session"], row["speaker"].removeprefix("nemo_"),
                                row["gender"], words.get(label, label), row.get("style") or row["sentence"])
    assert corpus_kinds.guess(CorpusFolder(tmp_path)) == kind
    part = read(tmp_path, kind, allow_partial=True)
    assert {u.id: (u.num_samples, u.session, u.speaker, u.gender, u.label, u.style) for u in part} == expected


def test_mutated_tables_give_utterances_or_a_value_error(no_headers, tmp_path):
    """50 random changes of each table: never another exception, one line, and what is read is fit to be written."""
    generator, letters = random.Random(3), b"\t\n\r\0\"',;/.:-[] 09azAZ\xc3\xff\xb2"
    improv = "UTD-IMPROV-S01A-F01-P-FM01.avi; A; A:2.4; V:NaN; D:2.8 ; N:3.0;\nWORKER1; Angry; A:1.0;\n"
    texts = {
        ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"): SUMMARY,
        ("crema-d", "processedResults/tabulatedVotes.csv"): VOTES, ("crema-d", "finishedResponses.csv"): RESPONSES,
        ("meld", "dev_sent_emo.csv"): f"{COLUMNS}\n1,a,Ross,joy,positive,0,0,1,1,0,1\n2,b,Joey,fear,n,0,1,1,1,0,1\n",
        ("msp-improv", "Evaluation.txt"): 2 * improv.replace("FM01", "FM02") + improv,
        ("msp-podcast", "Labels/labels_consensus.csv"):
            f"{PODCAST}\na.wav,A,1,2,3,Spkr_1,Male,Train\nb.wav,N,1,2,3,,,\n",
        ("msp-podcast", "Labels/labels_detailed.csv"): "FileName,EmoDetail\na.wav,W1; Sad; Sad; A:2.0;\n",
        ("zed", "ZED.json"):
            '{"a": {"wav": "a.wav", "duration": 0.1, "emotion": [{"emo": "sad", "start": 0, "end": 0.01}]}}'}
    sounds = ["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav", "AudioWAV/1001_DFA_NEU_XX.wav",
              "dev/dia0_utt0.wav", "MSP-IMPROV-S01A-F01-P-FM01.wav", "Audios/a.wav", "Audios/b.wav", "a.wav"]
    root = published_trees.write(tmp_path / "c", sounds)
    for (kind, name), text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for (kind, name), text in texts.items():
        assert read(root, kind, allow_partial=True)
        for _ in range(50):
            content = bytearray(text.encode())
            for _ in range(generator.randint(1, 4)):
                place = generator.randrange(len(content))
                content[place:place + generator.randint(0, 3)] = generator.choices(letters, k=generator.randint(0, 3))
            (root / name).write_bytes(content)
            try:
                manifest.write(tmp_path / "again.tsv", read(root, kind, allow_partial=True))
            except ValueError as error:
                assert str(tmp_path) in str(error) and "\n" not in str(error)
        (root / name).write_text(text)
