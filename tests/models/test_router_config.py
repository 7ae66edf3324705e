import copy
import json

import pytest
from pages import ROOT

from autoreap.errors import InputError
from autoreap.models.families.qwen3_omni import QWEN3_OMNI

CONFIG = json.loads((ROOT / "tests" / "fixtures" / "qwen3-omni-30b-a3b-instruct.config.json").read_text())


@pytest.mark.parametrize(("top_k", "num_experts"), [(129, 128), (0, 128), (-1, 128), (8, 7), (1, -1), (1, 0)])
@pytest.mark.parametrize("part", ["thinker", "talker"])
def test_a_router_that_chooses_more_experts_than_there_are_is_refused(part: str, top_k: int, num_experts: int) -> None:
    config = copy.deepcopy(CONFIG)
    text = config[f"{part}_config"]["text_config"]
    text |= {"num_experts_per_tok": top_k, "num_experts": num_experts}
    if "num_local_experts" in text:
        text["num_local_experts"] = num_experts
    with pytest.raises(InputError, match=rf"config\.json: num_experts_per_tok of the {part} is {top_k}, with"):
        QWEN3_OMNI.layout.shape(config)
