"""How fast a decode step could be on a GPU: a roofline, and how it compares with published times."""
