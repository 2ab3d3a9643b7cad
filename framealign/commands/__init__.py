"""One module for each verb of `bin/VERB.py` and `framealign VERB`: its flags, what it reads and checks before it
begins, and its calls of the other wings. Nothing is computed here that another wing could compute, but for the demo's
baselines and the comparison with fairseq's released states.

Uses: runtime, sound, corpus, hubert, exchange, units, emotion, training, recipe, report.
"""
