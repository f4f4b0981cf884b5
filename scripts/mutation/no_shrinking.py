# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A plug-in of pytest: hypothesis stops at the first failure, which is all a mutant needs."""

from hypothesis import Phase, settings

settings.register_profile('mutation', phases=(Phase.explicit, Phase.generate), database=None)
settings.load_profile('mutation')
