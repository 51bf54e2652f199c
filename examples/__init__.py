"""One program per subject, each run from the root: `python -m examples.NAME`."""
