"""An HTTP server with OpenAI's API: the ``serve`` job.

A request passes through these modules: :mod:`.connection`, :mod:`.middleware`, :mod:`.api` (the
routes), :mod:`.body` and :mod:`.protocol` (parsing), :mod:`.preprocess` (tokenization), and
:mod:`.service`, which submits it to :mod:`.engine`, a thread with :mod:`.request_queue` and
:mod:`.scheduler`. :mod:`.response` builds OpenAI's objects of its outputs. :mod:`.model_loader`
and :mod:`.app_factory` create the server, and :mod:`.server` runs it. ``page/`` is the chat page.
"""
