"""3d. What steering and recording cost in time and memory -> results/bench."""
