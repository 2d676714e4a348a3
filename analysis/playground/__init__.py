"""6. One video at a time, by hand: scenes, a steered and an unsteered video, and the widgets of notebook 10."""
