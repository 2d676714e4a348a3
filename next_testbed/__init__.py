"""The second edition of the testbed, in the making: it takes the place of `testbed/` when its models are trained.

Only what differs from `testbed/` is here. Nothing of the pipeline reads this package yet.
"""
