"""Everything for a network that is closed, in one folder: made here, checked and loaded there.

``create`` makes a bundle with the project's own environment. All else here is carried in
the bundle as ``bundle.pyz`` and runs on the other side before there is an environment: the
standard library, Python 3.10 and the ``docker`` command are all it has.
"""
