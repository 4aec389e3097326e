"""CLIP, SigLIP, SigLIP2 and remote-code encoders as scorers."""

import numpy as np
import pytest
import torch
from evqa_files import ColourScorer
from hub_models import moved, save_encoder
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel

from regionr1.errors import UserError
from regionr1.scorers.hub import HubScorer
from regionr1.scorers.load import load_scorer
from regionr1.scorers.square import fit_square

KINDS = ("clip", "siglip", "siglip2", "eva")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(root / kind, kind) for kind in KINDS}


def scorer(folders, kind: str, **options) -> HubScorer:
    return HubScorer(str(folders[kind]), trust_remote_code=kind == "eva", **options)


def pictures(n: int = 3) -> list[Image.Image]:
    torch.manual_seed(1)
    sizes = [(32, 32), (64, 32), (20, 50)]
    noise = [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8) for w, h in sizes]
    return [Image.fromarray(pixels.numpy()) for pixels in noise[:n]]


@pytest.mark.parametrize("kind", KINDS)
def test_unit_vectors_whatever_the_batch(folders, kind) -> None:
    model = scorer(folders, kind)
    together = model.embed_images(pictures())
    assert together.shape == (3, model.dim) and together.dtype == torch.float32
    assert torch.allclose(together.norm(dim=-1), torch.ones(3))
    apart = torch.cat([model.embed_images([picture]) for picture in pictures()])
    assert torch.allclose(together, apart, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert model.embed_images([]).shape == (0, model.dim)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_a_square_image_is_embedded_as_by_the_stock_processor(folders, kind) -> None:
    # At the encoder's own size no choice of fit can differ from the model's own preprocessing.
    stock = AutoModel.from_pretrained(folders[kind]).eval()
    inputs = AutoImageProcessor.from_pretrained(folders[kind])(pictures(1), return_tensors="pt")
    with torch.no_grad():
        expected = stock.get_image_features(**inputs).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1)
    for fit in ("pad", "squash", "center_crop"):
        found = scorer(folders, kind, fit=fit).embed_images(pictures(1))
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_candidate_texts(folders, kind) -> None:
    images, texts = pictures(), ["a bird", "a tower", ""]
    plain = scorer(folders, kind)
    alone = plain.embed_candidates(images, texts)
    assert torch.equal(alone, plain.embed_images(images))
    half = scorer(folders, kind, text="weighted", text_weight=0.5)
    mixed = half.embed_candidates(images, texts)
    assert torch.allclose(mixed.norm(dim=-1), torch.ones(3))
    assert not torch.allclose(mixed, alone, atol=1e-3)
    none = scorer(folders, kind, text="weighted", text_weight=0.0)
    assert torch.allclose(none.embed_candidates(images, texts), alone, atol=1e-6)
    words = scorer(folders, kind, text="weighted", text_weight=1.0)
    ours, others = (words.embed_candidates(side, texts) for side in (images, images[::-1]))
    assert torch.allclose(ours[:2], others[:2], atol=1e-6)
    # without a text a candidate is its image, also among others that have one
    for wording in (half, words, scorer(folders, kind, text="sum")):
        assert torch.allclose(wording.embed_candidates(images, texts)[2], alone[2], atol=1e-6)


def test_eq_3_features_are_added_before_they_are_normalised(folders) -> None:
    """Region-R1's Eq. 3, computed by transformers alone."""
    model = scorer(folders, "clip", text="sum")
    clip = CLIPModel.from_pretrained(folders["clip"]).eval()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, model.side, model.side, 3), np.uint8)  # nothing to resize
    images, texts = [Image.fromarray(each) for each in pixels], ["a bird", "a tower", "a bridge"]
    prepared = AutoImageProcessor.from_pretrained(folders["clip"])(images, return_tensors="pt")
    words = AutoTokenizer.from_pretrained(folders["clip"])(
        texts, padding="max_length", return_tensors="pt",
        max_length=clip.config.text_config.max_position_embeddings,
    )  # fmt: skip
    with torch.no_grad():
        seen = clip.get_image_features(**prepared).pooler_output
        read = clip.get_text_features(**words).pooler_output
    expected = (seen + read) / (seen + read).norm(dim=-1, keepdim=True)
    found = model.embed_candidates(images, texts)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(seen.norm(dim=-1), read.norm(dim=-1), rtol=0.05)  # so order matters
    half = scorer(folders, "clip", text="weighted").embed_candidates(images, texts)
    assert not torch.allclose(half, expected, atol=1e-3)
    no_text = model.embed_candidates(images, ["", "", ""])
    assert torch.allclose(no_text, model.embed_images(images), atol=1e-6)


def test_fingerprint_is_all_that_decides_an_embedding(folders, tmp_path) -> None:
    base = scorer(folders, "clip").fingerprint()
    copy = moved(folders["clip"], tmp_path / "clip")
    assert HubScorer(str(copy)).fingerprint() == base
    assert HubScorer(str(copy), batch_size=1).fingerprint() == base
    others = {
        scorer(folders, "clip", fit="squash").fingerprint(),
        scorer(folders, "clip", fit="center_crop").fingerprint(),
        scorer(folders, "clip", dtype="bfloat16").fingerprint(),
        scorer(folders, "clip", text="weighted").fingerprint(),
        scorer(folders, "clip", text="weighted", text_weight=0.25).fingerprint(),
        scorer(folders, "clip", text="sum").fingerprint(),
        HubScorer(str(save_encoder(tmp_path / "other", "clip", seed=1))).fingerprint(),
    }
    assert len(others) == 7 and base not in others


def test_fit_square() -> None:
    image = Image.new("RGB", (40, 10), "red")
    image.paste("blue", (0, 0, 4, 10))  # the left end
    blue = (0, 0, 255)
    padded = fit_square(image, 40, "pad", (1, 2, 3))
    assert padded.getpixel((20, 2)) == (1, 2, 3) and padded.getpixel((1, 20)) == blue
    squashed = fit_square(image, 40, "squash", (1, 2, 3))
    assert squashed.getpixel((1, 2)) == blue
    cropped = fit_square(image, 40, "center_crop", (1, 2, 3))
    assert cropped.size == (40, 40)
    assert not any(cropped.getpixel((x, 20)) == blue for x in range(40))


def test_remote_code_needs_consent(folders, tmp_path) -> None:
    with pytest.raises(UserError, match="runs Python code of its own; read that code"):
        HubScorer(str(folders["eva"]))
    copy = moved(folders["eva"], tmp_path / "eva")
    code = copy / "modeling_evaclip.py"
    before = HubScorer(str(copy), trust_remote_code=True)
    code.write_text(code.read_text() + "\n# changed\n")
    assert HubScorer(str(copy), trust_remote_code=True).fingerprint() != before.fingerprint()
    stock = HubScorer(str(folders["clip"]))
    assert torch.allclose(
        before.embed_images(pictures()), stock.embed_images(pictures()), atol=1e-5
    )  # the same seed, so the same weights by the other code


def test_another_folders_processor(folders, tmp_path) -> None:
    copy = moved(folders["clip"], tmp_path / "clip")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="name the folder or hub id of one as processor"):
        HubScorer(str(copy))
    lent = HubScorer(str(copy), processor=str(folders["clip"]))
    assert torch.equal(
        lent.embed_images(pictures()), scorer(folders, "clip").embed_images(pictures())
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "openai/clip-vit-base-patch32"}, "needs a pinned revision"),
        ({"model": "./nowhere"}, "no such model folder"),
        ({"text_weight": 2.0}, "text_weight=2.0: must be between 0 and 1"),
    ],
)
def test_bad_options(folders, options, message) -> None:
    with pytest.raises(UserError, match=message):
        HubScorer(**{"model": str(folders["clip"]), **options})


def test_missing_weights_and_other_models(folders, tiny_policy, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(UserError, match="'qwen2_5_vl' is no dual encoder that this scorer knows"):
        HubScorer(str(tiny_policy))
    copy = moved(folders["clip"], tmp_path / "clip")
    weights = load_file(copy / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing .*visual_projection"):
        HubScorer(str(copy))


def test_any_class_by_class_path(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("class_path: evqa_files.ColourScorer\ninit_args:\n  name: mine\n")
    made = load_scorer(str(path))
    assert type(made) is ColourScorer and made.fingerprint() == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_path: evqa_files.ColourScorer\ninit_args:\n  colour: 1\n", "colour"),
        ("class_path: no.such.Scorer\n", "no.such.Scorer"),
        ("class_path: [", r"mine\.yaml.*not valid YAML"),
        ("- 1\n", "holds no settings"),
    ],
)
def test_bad_scorer_files(tmp_path, text, message) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_scorer(str(path))
    with pytest.raises(UserError, match=r"cannot read config file .*gone\.yaml"):
        load_scorer(str(tmp_path / "gone.yaml"))
