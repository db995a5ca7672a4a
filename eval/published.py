"""LLaVA-1.5, evaluated as its authors did: in Vicuna's words with the system message (`vicuna_v1`),
which the chat template of transformers' copies of it leaves out."""

import os

import vlm
from vlm.chat_template import SEEN, ChatTemplate


def ask_as_published(model: "vlm.VisionLanguageModel", source: str) -> bool:
    """Whether a model that was loaded from `source` is a LLaVA, not trained further by us, whose
    own template writes Vicuna's words without the system message. It is given it then."""
    language = model.language
    opens, closes = language.template.write([SEEN], answer_next=True).literals
    opens = opens.removeprefix(language.tokenizer.bos_token or "")
    vicuna = (opens, closes) == ("USER: <image>\n", " ASSISTANT:")
    if model.config.llava != os.path.expanduser(source) or not vicuna:
        return False
    language.template = ChatTemplate(language.tokenizer, "vicuna")
    model.config.language.prompt = "vicuna"
    return True
