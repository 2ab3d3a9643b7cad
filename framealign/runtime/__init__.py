"""What every program needs and no paper mentions: settings as dataclasses and flags, named seeds, ranks and devices,
files that are whole or absent, the log, an orderly stop, the lock on a run's folder, the memory allocator.

Uses: no other wing.
"""
