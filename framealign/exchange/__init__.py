"""Other programs' files: HuBERT's weights from fairseq and torchaudio, codebooks from scikit-learn (such as the one of
HuBERT, Sec. IV-B), and who speaks when from programs for diarization and subtitles. Pickles among them are read as
data, and nothing that they name is imported or called.

Uses: runtime, sound, hubert.
"""
