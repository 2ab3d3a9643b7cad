"""Frame-level emotional state alignment for speech emotion recognition, in plain PyTorch."""
__version__ = "0.1.0"
