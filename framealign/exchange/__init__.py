"""Other programs' files: HuBERT's weights from fairseq and torchaudio, codebooks from scikit-learn (such as the one of
HuBERT, Sec. IV-B). Pickles among them are read as data, and nothing that they name is imported or called.

Uses: runtime, sound, hubert.
"""
