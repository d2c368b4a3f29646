"""The libraries that only pictures need: matplotlib and umap."""

from __future__ import annotations

from functools import partial

from d4c import errors

require = partial(errors.require, extra="inspect", purpose="the pictures of an inspection need")
