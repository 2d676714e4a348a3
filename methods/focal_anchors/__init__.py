"""Where Focal Guidance finds a prompt's keywords in the reference image, and the projection that joint attention needs."""
