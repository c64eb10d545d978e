"""Bundles for air-gapped installation: one folder with everything, created here and loaded there.

``create`` runs in the project's environment. The modules that verify and load a bundle are part
of it as ``bundle.pyz``. They run before the project's environment exists, with nothing but
Python 3.10, its standard library and the ``docker`` command.
"""
