"""What is trained and tested on: utterances and their manifest, importers for other corpora, the protocols that say who
is trained, selected and tested on, crops of sound as batches, and the synthetic corpus. A crop is cut on frame
boundaries, so that each of its frames keeps its unit (HuBERT, Sec. II-B). Uses: runtime, sound.
"""
