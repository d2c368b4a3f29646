"""What is in place of a tower where the other one is alone.

An absent tower has no layers, no parameters and no stages, so that whatever walks through the towers of a model passes
it by; it refuses inputs.
"""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.models.anatomy import Stage
from d4c.models.text import TextTransformer
from d4c.models.tower import Tower
from d4c.models.tower_config import ImageConfig, TextConfig


class AbsentImage(Tower):
    """In place of an image tower."""

    embed_parts = head_parts = ()
    first_layer = ""

    def __init__(self, _config: ImageConfig, _embed_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()

    def forward(self, inputs: Tensor) -> NoReturn:
        raise SettingError("There is no image tower; load a model that has one.")

    def stages(self) -> list[Stage]:
        return []


class AbsentText(TextTransformer):
    """In place of a text tower."""

    def __init__(self, config: TextConfig, _embed_dim: int) -> None:
        Tower.__init__(self)
        self.eos_id, self.begin_id, self.begins_alike = config.eos_id, None, False
        self.trim, self.every_position_counts = True, True
        self.projection = nn.Identity()
        self.blocks = nn.ModuleList()

    def forward(self, inputs: Tensor) -> NoReturn:
        raise SettingError("There is no text tower; load a model that has one.")

    def stages(self) -> list[Stage]:
        return []
