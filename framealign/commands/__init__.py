"""One module for each verb of `bin/` that does more than call one function: it reads the flags' configuration, calls the
wings that do the work, and says what was done. Nothing is computed here that another wing could compute.

Uses: runtime, sound, corpus, hubert, exchange, units, emotion, training, recipe, report.
"""
