"""What Focal Guidance reads: keywords and their anchors in the reference image, and the values made of them in each model."""
