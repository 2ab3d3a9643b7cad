"""The whole method as one recipe (alignment paper, Sec. 2): its stages with their settings, presets and records, the
checks before training, and what comes out: tables of results, comparisons of runs, the model card.

Uses: runtime, sound, corpus, hubert, exchange, units, emotion, training.
"""
