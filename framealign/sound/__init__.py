"""Sound on its way into the model: sample <-> frame arithmetic of the conv encoder (HuBERT, Sec. II-E), sound files
read as mono waveforms at 16 kHz, live sound in chunks, MFCC, the features of HuBERT's first units (Sec. IV-B),
statistics of an utterance, and where there is speech.

Uses: runtime.
"""
