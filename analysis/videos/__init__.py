"""2. Cells -> runs/: the videos, one lossless file per cell, and the recordings of their attention."""
