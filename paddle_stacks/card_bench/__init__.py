"""The benchmark of a backend's cards: what to run, and a report to attach to an issue.

:mod:`.parts` runs each part in a container, :mod:`.report` writes the report, and
:mod:`.collectives` is the program that measures communication, in a container.
"""
