"""Frame-level emotional state alignment for speech emotion recognition, in plain PyTorch."""
__version__ = "0.1.0"

from framealign.model import Hubert
from framealign.recognise import Recogniser
from framealign.units import Codebook

__all__ = ["Codebook", "Hubert", "Recogniser"]
