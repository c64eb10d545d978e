"""Print what upstream's arguments are: name, and default where it is plain."""

from __future__ import annotations

import dataclasses
import json

from paddlenlp.trl import model_config, sftdata_config
from paddlenlp.trl.quant_config import QuantConfig

from entrypoints.finetuning.trainer import Arguments

PLAIN = (bool, int, float, str, type(None))
found = {}
for kind in (QuantConfig, model_config.ModelConfig, sftdata_config.DataConfig, Arguments):
    for field in dataclasses.fields(kind):
        if field.init and isinstance(field.default, PLAIN):
            found[field.name] = field.default
        elif field.init:
            found[field.name] = "?"
print(json.dumps(found))
