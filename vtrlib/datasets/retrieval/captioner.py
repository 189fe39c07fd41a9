"""A multimodal language model that says what a frame shows (DiscoVLA, section 3.4).

Any image-text-to-text model of the Hugging Face hub; the paper's is LLaVA-NeXT.

Letters (see the notation page): N frames of H×W pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from vtrlib.check import integer

__all__ = ["GUIDED", "UNGUIDED", "Captioner", "load_captioner"]

GUIDED = (  # section 3.4, to the letter
    "The provided image is a frame sampled from the video, which describes {caption}. "
    "Based on the video's content, provide a caption for the provided image."
)
# Table 8, "W/O VidCap": the paper gives no wording. Ours is the paper's request alone.
UNGUIDED = "Provide a caption for the provided image."


@dataclass(frozen=True, eq=False)
class Captioner:
    """A loaded model and its processor.

    Answers are greedy, so they are a function of frame and prompt. They don't depend on
    what stands beside them in a batch but by rounding: prompts are padded on the left.

    Attributes:
        model: generates; processor: makes its input, and has a chat template.
        name: what it was loaded as.
        max_new_tokens: after so many an answer is cut off. CLIP reads 32 words of it.
        min_new_tokens: the end is not allowed before.
    """

    model: Any
    processor: Any
    name: str
    max_new_tokens: int = 64
    min_new_tokens: int = 1

    def __post_init__(self) -> None:
        low = integer("min_new_tokens", self.min_new_tokens, low=0)
        integer("max_new_tokens", self.max_new_tokens, low=max(1, low))
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(
                f"processor of {self.name!r}: has no chat template, so how a prompt is "
                "put to it is unknown. Expected one; set processor.chat_template."
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its answers depend on, as JSON; not where it was loaded from."""
        return {
            "model": type(self.model).__name__,
            "weights": _fingerprint(self.model),
            "template": self.processor.chat_template,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "tokens": [self.min_new_tokens, self.max_new_tokens],
        }

    @torch.inference_mode()
    def caption(self, frames: Sequence[Tensor], prompts: Sequence[str]) -> list[str]:
        """Answer a prompt about each frame.

        Args:
            frames: N of (3, H, W) uint8, 0 … 255; sizes may differ.
            prompts: N, such as `GUIDED.format(caption=...)`.

        Returns:
            N sentences in one line each, without special tokens; "" where the model
            says nothing.

        Raises:
            ValueError: none, or another number of frames than of prompts; a frame of
                another shape; a prompt that holds the model's sign for an image.
            TypeError: a frame is not uint8.
        """
        if not frames or len(frames) != len(prompts):
            raise ValueError(
                f"{len(frames)} frames and {len(prompts)} prompts: expected one prompt "
                "for each frame, and at least one."
            )
        for n, frame in enumerate(frames):
            if frame.dtype != torch.uint8:
                raise TypeError(f"frames[{n}]: {frame.dtype}, expected uint8, 0 to 255.")
            if frame.ndim != 3 or frame.shape[0] != 3:
                raise ValueError(f"frames[{n}]: {tuple(frame.shape)}, expected (3, H, W).")
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"  # what is generated must follow the prompt
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        inputs = self.processor(
            images=list(frames),
            text=[self._asked(prompt) for prompt in prompts],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        tokens = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            min_new_tokens=self.min_new_tokens,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers = self.processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return [" ".join(answer.split()) for answer in answers]

    def _asked(self, prompt: str) -> str:
        sign = getattr(self.processor, "image_token", None)
        if sign and sign in prompt:
            raise ValueError(
                f"prompt {prompt!r:.120}: holds {sign}, which the model takes for an "
                "image. Leave that caption out, or write it otherwise."
            )
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        turn = [{"role": "user", "content": content}]
        asked: str = self.processor.apply_chat_template(turn, add_generation_prompt=True)
        return asked


def load_captioner(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    max_new_tokens: int = 64,
    min_new_tokens: int = 1,
) -> Captioner:
    """Load an image-text-to-text model, in evaluation mode.

    Args:
        name: a folder in the form of `transformers`, or a name on the Hugging Face hub,
            such as "llava-hf/llava-v1.6-mistral-7b-hf". Weights must be safetensors.
        device, dtype: where and in what precision; `torch.bfloat16` on a GPU.
        revision: branch, tag or commit on the hub.
        max_new_tokens, min_new_tokens: see `Captioner`.

    Raises:
        FileNotFoundError: the model is not at hand.
        ValueError: it is no image-text-to-text model, or its processor has no chat
            template.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    local, processors = Path(name).is_dir(), cast(Any, AutoProcessor)
    common: dict[str, Any] = {"revision": revision, "local_files_only": local}
    try:
        processor = processors.from_pretrained(str(name), **common)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            str(name), dtype=dtype, use_safetensors=True, **common
        )
    except OSError as error:
        raise FileNotFoundError(
            f"name={str(name)!r}: could not be loaded ({str(error).splitlines()[0]}). "
            "Expected a folder, or a model on the Hugging Face hub with safetensors "
            "weights; without network it must be cached."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"name={str(name)!r}: {str(error).splitlines()[0]}. Expected an "
            "image-text-to-text model, such as LLaVA-NeXT."
        ) from error
    model = model.to(device).eval().requires_grad_(False)
    return Captioner(model, processor, str(name), max_new_tokens, min_new_tokens)


def _fingerprint(model: Any) -> str:
    """A hash of some weights of each tensor: all would take minutes at 7 billion."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // 64)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()
