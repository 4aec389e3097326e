"""Untrained dual encoders of a few thousand weights, saved as hub folders."""

import json
import shutil
from pathlib import Path

import torch
from tiny_policy import build_tokenizer
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

TEXT = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=12,
    projection_dim=8,
    projection_size=16,
)
VISION = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    patch_size=8,
    image_size=32,
    projection_dim=8,
)

REMOTE_CODE = """
from torch import nn
from transformers import CLIPConfig, CLIPModel


class EvaCLIPConfig(CLIPConfig):
    pass


class EvaCLIPModel(CLIPModel):
    config_class = EvaCLIPConfig

    def encode_image(self, pixel_values):
        return self.get_image_features(pixel_values=pixel_values).pooler_output

    def encode_text(self, input_ids):
        return self.get_text_features(input_ids=input_ids).pooler_output
"""


def save_encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write an encoder, its image processor and tokenizer.

    Args:
        folder: Where to.
        kind: `clip`, `siglip`, `siglip2`, or `eva`: CLIP with code of its own and .bin weights.
        seed: Of the weights.
    """
    tokenizer = build_tokenizer(["<unk>"])  # which transformers' tokenizer of SigLIP2 needs
    special = dict(
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    text = {**TEXT, **special, "vocab_size": len(tokenizer)}
    torch.manual_seed(seed)
    if kind in ("clip", "eva"):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
        images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    elif kind == "siglip":
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
        images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    else:
        vision = {**VISION, "num_patches": 16}
        model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
        images = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "eva":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "modeling_evaclip.py").write_text(REMOTE_CODE)
        config = json.loads((folder / "config.json").read_text())
        module = "modeling_evaclip"
        config["auto_map"] = {
            "AutoConfig": f"{module}.EvaCLIPConfig",
            "AutoModel": f"{module}.EvaCLIPModel",
        }
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def moved(folder: Path, to: Path) -> Path:
    """A copy of a folder elsewhere."""
    return Path(shutil.copytree(folder, to))
