"""Other people's lists of utterances, one module each: the folders of published corpora (`corpus_kinds.KINDS` lists
them, `published_corpus` is what they share), the reference's scp lists, fairseq's `.tsv`. Each gives the `Utterance`s
that `manifest.read` would give."""
