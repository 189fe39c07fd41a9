"""CLIP's two towers behind one small class: frames in, sentences in, points of one space out.

The towers themselves are `transformers.CLIPModel`; nothing of them is written again here. This module loads them (the
tiny ones that ship with the package, or any by name or folder), prepares frames and sentences as they expect them, and
smooths over what differs between versions.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel
from transformers.utils import logging

from vtrlib.check import listed
from vtrlib.shipped import verify

__all__ = ["TINY", "Towers", "load", "preprocess"]

TINY = Path(__file__).resolve().parents[1] / "assets" / "tiny_clip"
# OpenAI's statistics of RGB values, which CLIP's image processors use where a checkpoint brings none of its own.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def preprocess(frames: Tensor, size: int, mean: Sequence[float] = _MEAN, std: Sequence[float] = _STD) -> Tensor:
    """Frames as a CLIP vision tower takes them: short side to `size` (bicubic), centre crop, standardised colours.

    Args:
        frames: (..., 3, H, W) uint8, 0 … 255.
        size: side of the square that the tower sees, pixels.
        mean, std: of the three colours, on the scale 0 … 1.

    Returns:
        (..., 3, size, size) float32.

    Raises:
        TypeError: frames are not uint8. ValueError: their shape is no (..., 3, H, W), or there is none.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames ({frames.dtype}): expected uint8, 0 to 255; convert with (255 * frames).byte().")
    if frames.ndim < 3 or frames.shape[-3] != 3 or 0 in frames.shape:
        raise ValueError(f"frames {tuple(frames.shape)}: expected (..., 3, H, W), at least one frame of one pixel.")
    height, width = frames.shape[-2:]
    x = frames.reshape(-1, 3, height, width).float()
    short = min(height, width)
    if short != size:
        scaled = (size, int(size * width / height)) if height <= width else (int(size * height / width), size)
        # Rounded and clipped to bytes, as an image library would return them.
        x = F.interpolate(x, scaled, mode="bicubic", antialias=True).round().clamp(0, 255)
    top, left = (x.shape[-2] - size) // 2, (x.shape[-1] - size) // 2
    x = x[..., top : top + size, left : left + size] / 255
    to: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
    x = (x - torch.tensor(mean, **to)[:, None, None]) / torch.tensor(std, **to)[:, None, None]
    return x.reshape(*frames.shape[:-2], size, size)


class Towers(nn.Module):
    """A vision tower and a text tower that meet in one space.

    Both `encode_...` methods give unit vectors, so that a dot product is a cosine. Gradients flow; use `torch.no_grad`
    or `frozen()` where none are wanted.

    Attributes:
        model: the `transformers.CLIPModel`.
        tokenizer: its tokenizer.
        name: what it was loaded as.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: Any, name: str, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.mean, self.std = tuple(mean), tuple(std)
        self._warned: set[str] = set()

    @property
    def _config(self) -> Any:
        return self.model.config

    @property
    def size(self) -> int:
        """Side of the square that the vision tower sees, pixels."""
        return int(self._config.vision_config.image_size)

    @property
    def dimension(self) -> int:
        """D, width of the common space."""
        return int(self._config.projection_dim)

    @property
    def context(self) -> int:
        """Most tokens of a sentence, [bos] and [eos] included."""
        return int(self._config.text_config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def frozen(self) -> Towers:
        """Itself, in evaluation mode and without gradients."""
        return self.eval().requires_grad_(False)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of some sentences, (B, L) int64 each, padded to the longest.

        A sentence longer than `context` is cut as the reference implementations do: its first tokens stay, its last
        place is the end token. That, and a word that the vocabulary lacks, is warned of once.

        Raises:
            TypeError: texts is a single string. ValueError: there is none.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts={texts!r}: expected a list of sentences; write [text] for one.")
        if not len(texts):
            raise ValueError("texts is empty: expected at least one sentence.")
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if ids.shape[1] == self.context:
            whole = self.tokenizer(list(texts))["input_ids"]
            if long := [t for t, i in zip(texts, whole, strict=True) if len(i) > self.context]:
                self._warn(
                    "length", f"{len(long)} of {len(texts)} sentences are cut to {self.context} tokens: {long[0]!r}"
                )
        unknown = self.tokenizer.unk_token_id
        # CLIP's byte pairs spell any word, and use the end token where they would need an unknown one.
        if unknown not in (None, self.tokenizer.eos_token_id) and bool((ids == unknown).any()):
            first = next(t for t, i in zip(texts, ids, strict=True) if (i == unknown).any())
            self._warn("word", f"a word is not in the vocabulary of {self.name!r} and is read as unknown: {first!r}")
        return ids.to(self.device), mask.to(self.device)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Sentences to unit vectors, (B, D)."""
        ids, mask = self.tokenize(texts)
        return self.encode_tokens(ids, mask)

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask, (B, L) each, to unit vectors (B, D), read at the end token."""
        return F.normalize(_features(self.model.get_text_features(input_ids=ids, attention_mask=mask)), dim=-1)

    def token_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States of all tokens after the last layer and norm, (B, L, width of the text tower)."""
        states: Tensor = self.model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames (..., 3, H, W) uint8 to unit vectors (..., D)."""
        pixels = preprocess(frames.to(self.device), self.size, self.mean, self.std)
        return self.encode_pixels(pixels.flatten(0, -4) if pixels.ndim > 4 else pixels).reshape(*frames.shape[:-3], -1)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Prepared frames (B, 3, size, size) or (3, size, size) to unit vectors (B, D)."""
        pixels = pixels.to(next(self.model.parameters()).dtype)
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        return F.normalize(_features(self.model.get_image_features(pixel_values=pixels)), dim=-1)

    def patch_states(self, frames: Tensor) -> Tensor:
        """States of class token and patches after the last layer, (B, 1 + N, width of the vision tower)."""
        pixels = preprocess(frames.to(self.device), self.size, self.mean, self.std)
        pixels = pixels.reshape(-1, *pixels.shape[-3:]).to(next(self.model.parameters()).dtype)
        states: Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return states

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `load` and `transformers` read: safetensors, configuration, tokenizer, colours."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        colours = {"image_mean": list(self.mean), "image_std": list(self.std), "crop_size": self.size}
        (folder / "preprocessor_config.json").write_text(json.dumps(colours, indent=2) + "\n", "utf-8")

    def _warn(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(f"{message}. This is said once.", stacklevel=4)


def load(
    name: str | os.PathLike[str] = "tiny",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> Towers:
    """CLIP towers, ready to use and in evaluation mode.

    Args:
        name: "tiny" for the towers that ship with the book; a folder that holds a CLIP model in the form of
            `transformers`; or the name of one on the Hugging Face hub, such as "openai/clip-vit-base-patch32". Weights
            must be safetensors: pickled ones could run code.
        device, dtype: where and in what precision.
        revision: branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: a folder that lacks a part, or a name that is not at hand (say, without network).
        ValueError: the shipped weights differ from their recorded hash; the folder holds another kind of model, or a
            damaged file; or weights and configuration are of two models.
    """
    folder = TINY if name == "tiny" else Path(name)
    if name == "tiny":
        verify(folder)
    local = folder.is_dir()
    if not local and (folder.is_absolute() or folder.exists() or str(name).startswith((".", "~"))):
        raise FileNotFoundError(f"name={str(name)!r}: there is no such folder. Expected a folder with a CLIP model.")
    source = str(folder) if local else str(name)
    if local:
        _complete(folder)
    common: dict[str, Any] = {"revision": revision, "local_files_only": local}
    try:
        with _quiet(local):
            loaded: Any = CLIPModel.from_pretrained(
                source, use_safetensors=True, dtype=dtype, output_loading_info=True, **common
            )
            model, found = loaded
            tokenizer = AutoTokenizer.from_pretrained(source, **common)
    except OSError as error:
        raise FileNotFoundError(
            f"name={source!r}: could not be loaded ({str(error).splitlines()[0]}). Expected 'tiny', a folder, or the "
            "name of a model on the Hugging Face hub with safetensors weights; without network it must be cached."
        ) from error
    except (SafetensorError, RuntimeError, ValueError) as error:  # RuntimeError: sizes that differ
        raise ValueError(
            f"name={source!r}: could not be read ({str(error).splitlines()[0]}). Expected weights, configuration and "
            "tokenizer of one CLIP model, undamaged; download or save it again."
        ) from error
    _of_one_model(source, found)
    mean, std = _colours(folder) if local else (_MEAN, _STD)
    return Towers(model, tokenizer, str(name), mean, std).to(device).eval()


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """No progress bar for files that are there already: it would be stored in notebooks."""
    shown = logging.is_progress_bar_enabled()
    if local:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _features(output: Any) -> Tensor:
    """Projected features: transformers 5 wraps them in an output object, transformers 4 gave the tensor."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


def _complete(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder}: has no config.json. Expected a folder saved by transformers.")
    settings = _json(config)
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if kind != "clip":
        raise ValueError(f"{config}: model_type is {kind!r}, expected 'clip'.")
    if not list(folder.glob("*.safetensors")):
        pickled = "; its .bin weights are pickles, save them as safetensors" if list(folder.glob("*.bin")) else ""
        raise FileNotFoundError(f"{folder}: has no safetensors weights{pickled}.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):  # else one is made of nothing
        raise FileNotFoundError(f"{folder}: has no tokenizer. Expected tokenizer.json, or vocab.json and merges.txt.")


def _of_one_model(source: str, found: dict[str, Any]) -> None:
    """Raise if the weights lack what the configuration has, which would stay random, or hold more layers than it."""
    towers = ("text_", "vision_", "visual_", "logit_scale")
    beyond = [k for k in found["unexpected_keys"] if k.startswith(towers) and not k.endswith("position_ids")]
    for what, keys in (("lack", sorted(found["missing_keys"])), ("also hold", sorted(beyond))):
        if keys:
            raise ValueError(
                f"name={source!r}: its weights {what} {listed(keys, 3)}, by its config.json. Expected weights and "
                "configuration of one model; download or save it again."
            )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Expected JSON; download or save the model again.") from None


def _colours(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return _MEAN, _STD
    settings = _json(path)
    return settings.get("image_mean", _MEAN), settings.get("image_std", _STD)
