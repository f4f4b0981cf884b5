# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The command line as ``python -m uncertainty_seg``.

For a checkout that is not installed. It knows nothing of the verbs: ``tools.main`` does.

"""

import sys

from uncertainty_seg.tools.main import main

if __name__ == '__main__':
    sys.exit(main())
