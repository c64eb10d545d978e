"""An HTTP server with OpenAI's API: what the ``serve`` job is made of.

:mod:`.engine` is the one thread that computes, :mod:`.scheduler` what it does next;
:mod:`.requests` is what a client may ask, :mod:`.asking` makes work of it, and
:mod:`.answers` makes OpenAI's objects of what comes back. :mod:`.api` has the routes,
:mod:`.guard` decides who may use them, :mod:`.connection` what a connection may take,
and :mod:`.server` listens and drains. ``page/`` is the chat page.
"""
