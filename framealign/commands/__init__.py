"""What the verbs of `bin/` do: one module for each, which reads the flags, calls the wings that do the work, and prints
what was done. Nothing is computed here that another wing could compute.

Uses: runtime, sound, corpus, hubert, exchange, units, emotion, training, recipe, report.
"""
