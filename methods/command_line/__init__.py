"""The commands of `python -m methods`: generate, families and doctor.

In: options, and of a checkpoint its configuration files. Out: a video with a file that says how it was made, or a table.
Everything that can be refused is refused before weights are loaded.
"""
