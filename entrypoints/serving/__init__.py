"""An HTTP server with OpenAI's API: the modules of the ``serve`` job.

:mod:`.body` and :mod:`.requests` parse and check request bodies, :mod:`.preprocess` makes work
for the engine of them, and :mod:`.answers` makes OpenAI's objects of what comes back.
:mod:`.engine` is the one thread that computes, :mod:`.request_queue` what waits for it, and
:mod:`.scheduler` decides what it does next. :mod:`.api` has the routes, :mod:`.guard` is the
middleware in front of them, :mod:`.connection` limits connections, and :mod:`.server` listens
and drains. ``page/`` is the chat page.
"""
