"""Runs whose predictions are drawn at random, and the cells of the tables that are made of them."""
import dataclasses
from pathlib import Path

import numpy as np

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.emotion.predictions import Predictions

PROTOCOL = {"base_digest": "abc", "hubert": "tiny", "preset": "tiny", "pretrain_data": "transductive", "seed": 7,
            "validate_on": "session", "classes": list(CLASSES), "test_crop_seconds": "none"}


class Run:
    """A run as `session.py` leaves it, with predictions drawn at random: about half of them right."""

    def __init__(self, root: Path, sessions: str = "12345", per_session: int = 40):
        self.root, self.draw, self.utterances = root, np.random.default_rng(0), []
        for session in sessions:
            for number in range(per_session + int(session)):
                gender, label = "FM"[number % 2], CLASSES[self.draw.choice(4, p=[0.4, 0.3, 0.2, 0.1])]
                name = f"Ses0{session}{gender}_impro0{number % 5}_{gender}{number:03d}"
                self.utterances.append(Utterance(name, root / f"{name}.wav", 16_000, session, f"Ses0{session}{gender}",
                                                 gender, label, "impro"))
        manifest.write(root / "corpus.tsv", self.utterances)

    def finish(self, session: str, stage: str = "ser-finetune", selection: str = "clean", **settings) -> None:
        """One fold's records and results."""
        place, chosen = self.root / f"session{session}" / stage, [u for u in self.utterances if u.session == session]
        true = np.array([CLASSES.index(u.label) for u in chosen])
        guess = np.where(self.draw.random(len(true)) < 0.4, true, self.draw.integers(4, size=len(true)))
        predictions = Predictions.of(chosen, CLASSES, np.full((len(true), 4), 0.25))
        dataclasses.replace(predictions, predicted=guess).write(place / "predictions.csv")
        test = dataclasses.replace(predictions, predicted=guess).scores()
        files.write_json(place / "results.json", {
            "selection": selection, "classes": list(CLASSES), "seed": 7, "test": test, "optimistic": selection in (
                "reference", "best-test"), "num_utterances": {"train": 1, "valid": 1, "test": len(chosen)},
            "reported": {name: test[name] for name in ("wa", "ua", "macro_f1")},
            "protocol": PROTOCOL | {"selection": selection, "base_digest": settings.pop("base_digest", "abc")}})
        files.write_json(place / "stage.json", {"settings": {"session": session, "split": [session], "seed": 7,
                                                             "finetune": {"lr": 0.1}} | settings})


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of the table's rows by their first cell."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
