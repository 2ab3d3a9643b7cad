"""Hidden units (HuBERT, Sec. II-A): frames of MFCC or of a layer's states are extracted and kept, clustered by k-means,
and each frame gets the index of its nearest centroid. The alignment paper makes its pseudo-emotion units in the same
way (Sec. 2.2). Uses: runtime, sound, corpus, hubert, exchange.
"""
