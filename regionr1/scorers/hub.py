"""CLIP, SigLIP, SigLIP2 and dual encoders with code of their own, as scorers."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PretrainedConfig

from regionr1.errors import UserError
from regionr1.hub import resolve_source
from regionr1.scorers.base import Scorer
from regionr1.scorers.square import Fit, fit_square, pixels_of

NATIVE = ("clip", "siglip", "siglip2")
Text = Literal["none", "weighted", "sum"]
_EDGE = 1 << 20


class HubScorer(Scorer):
    """A frozen CLIP-like encoder from a folder or a pinned hub model.

    CLIP, SigLIP and SigLIP2 run transformers' own code. A model with code of its own, such as
    BAAI/EVA-CLIP-8B, runs that code only with `trust_remote_code`; it must offer CLIP's
    `encode_image` and `encode_text`.

    Args:
        model: Local folder in hub format, or a hub id with `revision`.
        revision: Commit of the hub repository; required for a hub id.
        trust_remote_code: Consent to run the Python code that comes with the model. Also lets
            weights be read from .bin files, which such models ship (as tensors only).
        processor: Folder or hub id of image processor and tokenizer, where the model has none.
        processor_revision: Commit of that hub repository.
        dtype: Of weights and computation.
        fit: How an image becomes the encoder's square: `pad`, `squash` or `center_crop`.
        text: What a candidate's text adds to its image: `none`; `weighted` adds the two unit
            vectors by `text_weight`; `sum` adds the features before they are normalised, as
            Region-R1 (arXiv 2604.05268, Eq. 3 and appendix B) and its release do. A candidate
            without text is its image alone.
        text_weight: Share of the text, 0 to 1, when `weighted`.
        batch_size: Images per forward pass.

    Raises:
        UserError: No such model, no consent to its code, an unpinned hub id, missing weights.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        trust_remote_code: bool = False,
        processor: str | None = None,
        processor_revision: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        fit: Fit = "pad",
        text: Text = "none",
        text_weight: float = 0.5,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        if not 0 <= text_weight <= 1:
            raise UserError(f"text_weight={text_weight}: must be between 0 and 1.")
        source = resolve_source(model, revision)
        parts = source if processor is None else resolve_source(processor, processor_revision)
        parts_revision = revision if processor is None else processor_revision
        self.fit: Fit = fit
        self.text: Text = text
        self.text_weight = text_weight
        self.batch_size = batch_size
        self.remote = needs_remote_code(source, revision, trust_remote_code)
        self.encoder = _load_encoder(source, revision, self.remote, dtype)
        self.images = _load_part(AutoImageProcessor, parts, parts_revision)
        self.tokenizer = (
            None if text == "none" else _load_part(AutoTokenizer, parts, parts_revision)
        )
        config = self.encoder.config
        # SigLIP has no projection, though some of its configs carry a projection_dim.
        clip = config.model_type == "clip"
        self.dim = config.projection_dim if clip else config.vision_config.hidden_size
        self.patches = config.model_type == "siglip2"
        self.side = self._side()
        self.eval().requires_grad_(False)
        identity = {
            "model": _identity(source, revision),
            "processor": {} if processor is None else _identity(parts, parts_revision),
            "remote_code": self.remote,
            "mean": self.images.image_mean,
            "std": self.images.image_std,
            "side": self.side,
            "resize": "bicubic-gap3",
            "dtype": dtype,
            "fit": fit,
            "text": [text, text_weight if text == "weighted" else None],
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self._fingerprint = f"{Path(source).name}-{fit}-{dtype}-{digest}"

    def fingerprint(self) -> str:
        """A digest of weights (by hub commit or by files), preprocessing, text and dtype."""
        return self._fingerprint

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """f: unit vectors (N, D) float32 of the views."""
        return normalize(self._image_features(images), dim=-1)

    @torch.no_grad()
    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """g: unit vectors (N, D) float32 of candidate images, with their texts if wanted."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} candidate images but {len(texts)} texts")
        features = self._image_features(images)
        told = [i for i, text in enumerate(texts) if text and self.text != "none"]
        if told:  # a candidate without text is its image, whatever comes with it
            words = self._text_features([texts[i] for i in told])
            if self.text == "sum":
                features[told] += words
            else:
                seen, words = normalize(features[told], dim=-1), normalize(words, dim=-1)
                features[told] = torch.lerp(seen, words, self.text_weight)
        return normalize(features, dim=-1)

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _side(self) -> int:
        vision = self.encoder.config.vision_config
        if not self.patches:
            return int(vision.image_size)
        # SigLIP2 with free shapes takes a number of patches; the square uses as many as fit.
        return int(self.images.max_num_patches**0.5) * int(vision.patch_size)

    @torch.no_grad()
    def _image_features(self, images: Sequence[Image.Image]) -> Tensor:
        rows = [torch.empty(0, self.dim, device=self._device)]
        grey = tuple(round(255 * value) for value in self.images.image_mean)
        for start in range(0, len(images), self.batch_size):
            chunk = [
                fit_square(image, self.side, self.fit, (grey[0], grey[1], grey[2]))
                for image in images[start : start + self.batch_size]
            ]
            with torch.autocast(self._device.type, enabled=False):
                rows.append(_pooled(self._encode(chunk)).float())
        return torch.cat(rows)

    def _encode(self, squares: Sequence[Image.Image]) -> Any:
        dtype = next(self.encoder.parameters()).dtype
        if self.patches:
            inputs = dict(self.images(images=list(squares), return_tensors="pt"))
            inputs = {name: value.to(self._device) for name, value in inputs.items()}
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
            return self.encoder.get_image_features(**inputs)
        pixels = torch.stack([pixels_of(square) for square in squares]).to(self._device)
        mean, std = (
            torch.tensor(values, device=self._device).view(3, 1, 1)
            for values in (self.images.image_mean, self.images.image_std)
        )
        values = ((pixels.float() / 255 - mean) / std).to(dtype)
        if self.remote:
            return self.encoder.encode_image(values)
        return self.encoder.get_image_features(pixel_values=values)

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        assert self.tokenizer is not None
        config = self.encoder.config.text_config
        rows = []
        for start in range(0, len(texts), self.batch_size):
            inputs = self.tokenizer(
                list(texts[start : start + self.batch_size]),
                padding="max_length",  # SigLIP was trained so, and CLIP reads up to its end token
                truncation=True,
                max_length=config.max_position_embeddings,
                return_tensors="pt",
            ).to(self._device)
            with torch.autocast(self._device.type, enabled=False):
                if self.remote:
                    found = self.encoder.encode_text(inputs["input_ids"])
                elif self.encoder.config.model_type == "clip":
                    found = self.encoder.get_text_features(**inputs)
                else:
                    found = self.encoder.get_text_features(input_ids=inputs["input_ids"])
            rows.append(_pooled(found).float())
        return torch.cat(rows)


def needs_remote_code(source: str, revision: str | None, consent: bool) -> bool:
    """Whether a model runs code of its own.

    Raises:
        UserError: It does and there is no consent, or it is a kind that transformers lacks.
    """
    try:
        config, _ = PretrainedConfig.get_config_dict(source, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot read a model config ({error})") from error
    own_code = "AutoModel" in config.get("auto_map", {})
    if own_code and not consent:
        raise UserError(
            f"{source}: this model runs Python code of its own; read that code, then consent with "
            "trust_remote_code: true"
        )
    if not own_code and config.get("model_type") not in NATIVE:
        raise UserError(
            f"{source}: {config.get('model_type')!r} is no dual encoder that this scorer knows; "
            f"use one of {', '.join(NATIVE)}, or write a Scorer class and name it by class_path"
        )
    return own_code


def _load_encoder(source: str, revision: str | None, remote: bool, dtype: str) -> Any:
    pinned = {"code_revision": revision} if remote and revision is not None else {}
    try:
        model, info = AutoModel.from_pretrained(
            source,
            revision=revision,
            trust_remote_code=remote,
            dtype=getattr(torch, dtype),
            use_safetensors=None if remote else True,
            output_loading_info=True,
            **pinned,
        )
    except (OSError, SafetensorError, ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"{source}: cannot load the encoder's weights ({error})") from error
    gaps = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if gaps:
        raise UserError(
            f"{source}: {len(gaps)} weights are missing or of another shape (first: {gaps[0]}); "
            "get the whole checkpoint"
        )
    return model


def _load_part(loader: Any, source: str, revision: str | None) -> Any:
    try:
        return loader.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{source}: no image processor or tokenizer ({error}); name the folder or hub id of "
            "one as processor"
        ) from error


def _pooled(output: Any) -> Tensor:
    """Features as a remote model returns them, bare, or as transformers does."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _identity(source: str, revision: str | None) -> dict[str, Any]:
    """A hub model by its commit; a folder by its files, wherever it lies.

    Weight files can have many gigabytes, so of each the size and both ends are taken: the
    beginning lists every tensor, and training changes the rest.
    """
    if revision is not None:
        return {"hub": source, "revision": revision}
    names: dict[str, str] = {}
    for path in sorted(Path(source).iterdir()):
        if path.suffix not in (".json", ".safetensors", ".bin", ".py"):
            continue
        digest = hashlib.sha256(str(path.stat().st_size).encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, path.stat().st_size - _EDGE))
            digest.update(file.read(_EDGE))
        names[path.name] = digest.hexdigest()
    return {"files": names}
