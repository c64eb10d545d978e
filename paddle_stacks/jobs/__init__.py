"""Jobs: their names, options, configurations, data and events.

The host checks a request with these modules before a container starts, and the
container checks the same request with the same modules again. They are copied
into every image, so they use the standard library only and run on Python 3.10.
"""
