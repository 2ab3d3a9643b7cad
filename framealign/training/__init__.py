"""The training loops: masked prediction of units (HuBERT, Sec. II-B and IV-C; alignment paper, Sec. 2.1 and 2.2) and
fine-tuning on emotion (alignment paper, Sec. 2.3), with what both need: batches, optimiser, checkpoints.

Uses: runtime, sound, corpus, hubert, units, emotion.
"""
