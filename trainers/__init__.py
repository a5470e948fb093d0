"""Strategies: which architectures a training step trains, and the loss."""

if __name__ != "manynet.trainers":
    # No file is imported under two names: classes would not be the same.
    raise ImportError("trainers is part of Manynet: import manynet.trainers")
