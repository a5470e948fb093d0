"""Families of networks with their search spaces."""

if __name__ != "manynet.search_spaces":
    # No file is imported under two names: classes would not be the same.
    raise ImportError("search_spaces is part of Manynet: import manynet.search_spaces")
