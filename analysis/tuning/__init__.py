"""3c. Training clips -> deltas of the transformer: post-training for Focal Guidance."""
