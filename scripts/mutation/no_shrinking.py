# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A pytest plug-in: hypothesis does not shrink failures, since one failure kills a mutant."""

from hypothesis import Phase, settings

settings.register_profile('mutation', phases=(Phase.explicit, Phase.generate), database=None)
settings.load_profile('mutation')
