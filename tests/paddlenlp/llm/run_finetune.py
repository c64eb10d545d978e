"""Stands in for upstream's program of this name: prints how it was called."""

import sys

from called import main

sys.exit(main())
