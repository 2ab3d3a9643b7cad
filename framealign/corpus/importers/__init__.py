"""Other people's lists of utterances, one module each with a `read`: IEMOCAP's folder, `ZED.json`, the reference's
scp lists, fairseq's `.tsv`. Each gives the `Utterance`s that `manifest.read` would give."""
