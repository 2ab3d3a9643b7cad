"""Frame-level emotional state alignment for speech emotion recognition, in plain PyTorch."""
__version__ = "0.1.0"

from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.emotion.recogniser import Recogniser

__all__ = ["Codebook", "Hubert", "Recogniser"]
