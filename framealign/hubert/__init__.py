"""HuBERT itself (Hsu et al. 2021, Sec. II): the encoder (Sec. II-E), the span masks and the loss of masked prediction
(Sec. II-B), how its weights start and where they are stored.

`model.py` is the paper and nothing else; `fast.py` gives the same results sooner; `long_sound.py` goes through more
than a minute window by window. Uses: runtime, sound, corpus.
"""
