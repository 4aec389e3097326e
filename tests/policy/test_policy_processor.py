"""The processor without torchvision, and what a prompt may hold."""

import pytest
import torch
from PIL import Image
from tiny_policy import build_tiny_policy
from transformers.utils import is_torchvision_available

from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.processor import ImageTextProcessor, load_processor
from regionr1.policy.prompt import mrope_positions, process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_policy(tmp_path_factory.mktemp("policy"))


def test_it_says_which_processor_is_in_use(folder, caplog):
    with caplog.at_level("INFO"):
        processor = load_processor(str(folder))
    # with torchvision too: the folder holds no video processor, which the stock one needs
    assert isinstance(processor, ImageTextProcessor)
    assert "image-and-text processor" in caplog.text
    assert ("torchvision is not installed" in caplog.text) is not is_torchvision_available()


def test_a_stock_processor_that_cannot_be_loaded(folder, tmp_path, monkeypatch, caplog):
    def load(*args, **kwargs):
        raise ImportError("Package `num2words` is required")

    monkeypatch.setattr("regionr1.policy.processor.is_torchvision_available", lambda: True)
    monkeypatch.setattr("regionr1.policy.processor.AutoProcessor.from_pretrained", load)
    with caplog.at_level("INFO"):
        assert isinstance(load_processor(str(folder)), ImageTextProcessor)
    assert "num2words" in caplog.text
    with pytest.raises(UserError, match="needs an image processor config"):
        load_processor(str(tmp_path))


def test_left_padding_and_token_types(folder):
    processor = load_processor(str(folder))
    images = [Image.new("RGB", (64, 32)), Image.new("L", (40, 40))]
    inputs = process(processor, images, ["a", "a much longer question"], 'say {"x"}: {question}')
    types, mask = inputs["mm_token_type_ids"], inputs["attention_mask"]
    cells = inputs["image_grid_thw"].prod(-1) // 4
    assert torch.equal((types == 1).sum(-1), cells)
    assert mask[0, 0] == 0 and mask[:, -1].all() and (types[mask == 0] == 0).all()
    text = processor.tokenizer.decode(inputs["input_ids"][1])
    assert 'say {"x"}: a much longer question' in text and text.endswith("assistant\n")


def test_missing_token_types_are_an_error_not_wrong_positions(folder):
    policy = CropPolicy(str(folder))
    image = Image.new("RGB", (64, 32))
    inputs = process(policy.processor, [image], ["a"], "{question}")
    right = mrope_positions(policy.base, inputs)
    assert not torch.equal(right[1], right[2]), "height and width positions differ in an image"
    for missing in ({k: v for k, v in inputs.items() if k != "mm_token_type_ids"},):
        with pytest.raises(UserError, match="mm_token_type_ids"):
            mrope_positions(policy.base, missing)


def test_positions_never_come_from_an_earlier_call(folder):
    policy = CropPolicy(str(folder), max_new_tokens=6)
    image = Image.new("RGB", (64, 32), "red")
    first = policy.greedy([image], ["what?"])
    policy.base.model.rope_deltas = torch.full((1, 1), 999)
    again = policy.greedy([image], ["what?"])
    assert torch.equal(first.completion_ids, again.completion_ids)
    assert int(policy.base.model.rope_deltas) == 999, "nothing reads or writes the module's cache"


def test_bad_inputs(folder):
    processor = load_processor(str(folder))
    image = Image.new("RGB", (64, 32))
    with pytest.raises(UserError, match="the vision token"):
        process(processor, [image], ["<|image_pad|>"], "{question}")
    with pytest.raises(UserError, match="0 images"):
        process(processor, [], [], "{question}")
    with pytest.raises(UserError, match="questions"):
        process(processor, [image], ["a", "b"], "{question}")
    with pytest.raises(UserError, match="sizes"):
        process(processor, [Image.new("RGB", (4000, 2))], ["a"], "{question}")


def test_bad_processor_folders(folder, tmp_path):
    with pytest.raises(UserError, match="processor"):
        load_processor(str(tmp_path))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="chat template"):
        load_processor(str(copy))
