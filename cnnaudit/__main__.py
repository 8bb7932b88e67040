"""``python -m cnnaudit``."""

import sys

from cnnaudit.cli import main

sys.exit(main())
