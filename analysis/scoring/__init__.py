"""3a. runs/ -> scores: the oracle's answers, motion, sharpness and fidelity of every video, and the controls of these
instruments."""
