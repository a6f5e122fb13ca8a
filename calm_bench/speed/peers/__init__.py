"""The same shapes through other packages and through ours, in one run.

A twin is a system of ours that holds a package's own weights and gives its outputs; what is timed
on both sides is therefore the same computation.
"""
