"""The one family of errors a user can cause; the command line prints them as one line."""


class ManynetError(Exception):
    """Something the user can put right: the message gives the rule, then what was got."""
