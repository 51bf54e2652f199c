"""The run-time checker of annotations in tests: beartype, with an int welcome where a float is."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
