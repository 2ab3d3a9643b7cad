"""Pages, pictures and text for people: the report of a fold and of a run, the lesson that draws each step of the method
(HuBERT, Sec. II; alignment paper, Sec. 2) on one utterance, time lines of recognised sound, and the formats in which
results are written.

Uses: runtime, sound, corpus, hubert, exchange, units, emotion, training, recipe.
"""
