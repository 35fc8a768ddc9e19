"""The exit codes of the command line."""

OK = 0
FAILED = 1
"""The turn failed or was canceled, or the API refused the request."""
USAGE = 2
"""A mistake in the flags, the environment or the run config."""
UNREACHABLE = 3
"""The API cannot be reached, or is not ready."""
AWAITING = 4
"""The turn waits for its client to answer tool calls."""
INTERRUPTED = 130
"""Ctrl-C; a turn that was being watched goes on."""

EXPLAINED = """\
exit codes:
  0    done; the turn completed
  1    the turn failed or was canceled, or the API refused the request
  2    a mistake in the flags, the environment or the run config
  3    the API cannot be reached, or is not ready
  4    the turn waits for its client to answer tool calls
  130  interrupted; a turn that was being watched goes on"""
