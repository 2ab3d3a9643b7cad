"""Which corpus it is: by names, order and what the sound files hold, wherever they lie."""
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import soundfile

from framealign.corpus.utterance import corpus_description, corpus_digest


def test_a_corpus_is_known_by_its_content(tones, tmp_path):
    moved = [dataclasses.replace(u, path=Path(shutil.copy(u.path, tmp_path))) for u in tones]
    assert corpus_digest(moved) == corpus_digest(tones)
    assert corpus_description(moved) == f"24 utterances (digest {corpus_digest(tones)})"

    renamed = [dataclasses.replace(tones[0], id="another"), *tones[1:]]
    for other in (tones[::-1], tones[:-1], renamed):
        assert corpus_digest(other) != corpus_digest(tones)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, moved[3].num_samples)
    soundfile.write(moved[3].path, noise, 16_000)
    assert corpus_digest(moved) != corpus_digest(tones)
