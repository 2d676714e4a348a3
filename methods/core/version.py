"""The version of what `core` and `families` compute; it is part of the key of every steered video."""

# Raise this when a change to `core` or `families` changes numbers: a steered output, a recorded statistic, which token is
# taken for what. Videos made with another version are then made anew. Leave it when only names, checks, messages or new
# fields with a neutral default change. tests/test_core_version.py fails if the numbers change and this does not.
CORE_VERSION = 1
