"""Tables say of each layer what is not as its scheme says."""

from __future__ import annotations

from dataclasses import replace

from d4c.report.measures.layer_errors import LayerError
from d4c.report.page.charts import layers_table

PLAIN = LayerError("image.blocks.0.mlp.fc1", "image", 4, 4, 100, (), 30.0, 30.5, 25.0, 30.0, 25.0)


def test_inputs_with_a_range_of_their_own_are_named() -> None:
    errors = (
        PLAIN,
        replace(PLAIN, loud=(3, 7)),
        replace(PLAIN, class_token=True),
        replace(PLAIN, loud=(3,), class_token=True),
    )
    table = layers_table("layers", errors)
    named = [dict(zip(table.columns, row, strict=True))["apart at 8 bits"] for row in table.rows]
    assert named == ["", "channels 3, 7", "class token", "channels 3; class token"]
