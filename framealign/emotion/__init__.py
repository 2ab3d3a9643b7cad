"""Recognising emotion: the model (encoder, attention pooling, linear classifier; alignment paper, Sec. 2.3), the
recogniser for new sound, also while it comes, emotion over time as segments and by turns of speakers, predictions and
their metrics, and how well attention, posterior and units agree with planted truth.

Uses: runtime, sound, corpus, hubert, exchange, units.
"""
