"""The one family of errors a user can cause; the command line prints them as one line."""


class ManynetError(Exception):
    """Something the user can put right: the message gives the rule, then what was got."""


class OutOfService(ManynetError):
    """Something that all further work needs is gone: trying the next candidate would not help."""
