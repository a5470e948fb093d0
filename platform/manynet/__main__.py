"""``python -m manynet`` is the command line."""

from manynet.cli import main

main()
