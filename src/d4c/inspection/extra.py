"""Imports the libraries that only the pictures need: matplotlib and umap."""

from __future__ import annotations

from functools import partial

from d4c import errors

require = partial(errors.require, extra="inspect", purpose="The pictures of an inspection need")
