"""The one exception that users see."""


class FadepthError(Exception):
    """Bad input, told in one sentence: which file or key, what was expected, what to do.

    The command line prints the sentence without a traceback and exits with code 2.
    """
