from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sam_diffsr.masks.sam_model as sam_model
from sam_diffsr.errors import ArgumentError, CheckpointMismatchError, ModelLoadError
from sam_diffsr.hub import HubOptions
from sam_diffsr.masks.folders import load_generator
from sam_diffsr.masks.sam import SamMaskGenerator, SamOptions
from sam_diffsr.masks.sam_model import build_sam, find_weights, read_weights, rename_keys

OPEN: dict[str, Any] = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.05}
HUB_NAMES = json.loads((Path(__file__).parents[1] / "golden" / "sam_hub_names.json").read_text())


def hub_state(sam) -> dict[str, torch.Tensor]:
    """The state of ``sam`` under the names of the Hub."""
    native = sam.state_dict()
    probe = rename_keys({name: torch.zeros(0) for name in HUB_NAMES})
    names = dict(zip(probe, [n for n in HUB_NAMES if "shared_embedding" not in n], strict=True))
    state = {hub: native[name].clone() for name, hub in names.items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] = state[
        "shared_image_embedding.positional_embedding"
    ].clone()
    return state


def test_hub_names_become_the_native_ones(sam):
    native = {name: list(value.shape) for name, value in sam.state_dict().items()}
    renamed = rename_keys({name: torch.zeros(shape) for name, shape in HUB_NAMES.items()})
    assert {name: list(value.shape) for name, value in renamed.items()} == native
    assert len(HUB_NAMES) == len(native) + 1
    assert "prompt_encoder.not_a_point_embed.weight" in renamed


def test_sizes_are_read_off_the_weights(sam):
    state = torch.random.get_rng_state()
    built: Any = build_sam(sam.state_dict())
    assert torch.equal(state, torch.random.get_rng_state())
    assert str(built) == str(sam)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(built.image_encoder(image), sam.image_encoder(image))
        assert torch.equal(built.preprocess(image[0]), sam.preprocess(image[0]))
    assert not any(value.is_meta for value in [*built.parameters(), *built.buffers()])


@pytest.mark.parametrize(
    "form", ["pth", "published", "native safetensors", "hub safetensors", "folder", "hub", "vit_b"]
)
def test_every_source_gives_the_same_masks(sam, photo, tmp_path, form, monkeypatch):
    expected = SamMaskGenerator(sam, options=SamOptions(**OPEN), device="cpu").generate(photo)
    assert expected
    asked: dict[str, object] = {}
    source = str(tmp_path / "sam.safetensors")
    if form in ("pth", "published"):
        source = str(tmp_path / "sam.pth")
        torch.save(sam.state_dict(), source)
        if form == "published":
            digest = hashlib.md5(Path(source).read_bytes()).hexdigest()
            source = str(Path(source).rename(tmp_path / f"sam_vit_b_{digest[:6]}.pth"))
    elif form == "native safetensors":
        save_file(sam.state_dict(), source)
    else:
        file = tmp_path / ("model.safetensors" if form == "folder" else "sam.safetensors")
        save_file(hub_state(sam), file)
        source = str(tmp_path) if form == "folder" else str(file)
        if form in ("hub", "vit_b"):

            def download(repo_id, filename, **kwargs):
                asked.update(kwargs, repo_id=repo_id, filename=filename)
                return str(file)

            monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
            source = "owner/some-sam" if form == "hub" else "vit_b"
    made = SamMaskGenerator.from_pretrained(source, device="cpu", revision="abc", options=SamOptions(**OPEN))
    assert made.generate(photo) == expected
    assert made.options == SamOptions(**OPEN)
    if asked:
        assert asked["repo_id"] == ("owner/some-sam" if form == "hub" else "facebook/sam-vit-base")
        assert (asked["filename"], asked["revision"]) == ("model.safetensors", "abc")


def test_a_misspelt_path_is_not_asked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(sam_model, "download_model", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    with pytest.raises(ModelLoadError, match="there is no 'weights/sam', but a folder 'weights'"):
        find_weights("weights/sam", HubOptions())


def test_half_precision_weights_are_read_as_float32(sam, tmp_path):
    torch.save({name: value.half() for name, value in sam.state_dict().items()}, tmp_path / "a.pth")
    assert {value.dtype for value in read_weights(tmp_path / "a.pth").values()} == {torch.float32}


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


def test_damaged_and_hostile_files(sam, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"image_encoder.pos_embed": Explosive()}, path)
    with pytest.raises(ModelLoadError, match="holds more than tensors, or is damaged; nothing in it was run"):
        read_weights(path)
    torch.save(sam.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelLoadError, match="is truncated or not a file of weights"):
        read_weights(path)
    for content in (b"", b".", b"\x80\x02J"):
        path.write_bytes(content)
        with pytest.raises(ModelLoadError, match="is truncated or not a file of weights"):
            read_weights(path)
    (tmp_path / "a.safetensors").write_bytes(whole[:100])
    with pytest.raises(ModelLoadError, match="is truncated or not a file of weights"):
        read_weights(tmp_path / "a.safetensors")


def test_published_name_with_other_contents(sam, tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(sam.state_dict(), path)
    with pytest.raises(
        ModelLoadError, match=r"MD5 sum starts with [0-9a-f]{6}, expected 01ec64; download it again"
    ):
        read_weights(path)


def test_weights_of_something_else(sam, tmp_path):
    path = tmp_path / "a.pth"
    for other in ([1, 2], {}, {"epoch": 3}, {"state_dict": sam.state_dict()}):
        torch.save(other, path)
        with pytest.raises(CheckpointMismatchError, match="is not a plain dictionary of tensors"):
            read_weights(path)
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointMismatchError, match=r"no weights of Segment Anything .*\['conv.weight'\]"):
        read_weights(path)


def test_tensors_that_do_not_fit(sam):
    state = dict(sam.state_dict())
    state["extra"] = torch.zeros(1)
    del state["mask_decoder.iou_token.weight"]
    state["image_encoder.blocks.1.norm1.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointMismatchError) as caught:
        build_sam(state, source="a.pth")
    for part in (
        "a.pth does not fit Segment Anything",
        'Missing key(s) in state_dict: "mask_decoder.iou_token.weight"',
        'Unexpected key(s) in state_dict: "extra"',
        "size mismatch for image_encoder.blocks.1.norm1.bias",
    ):
        assert part in str(caught.value)
    for name in ("image_encoder.pos_embed", "prompt_encoder.mask_downscaling.3.weight"):
        incomplete = dict(sam.state_dict())
        del incomplete[name]
        with pytest.raises(CheckpointMismatchError, match=r"a\.pth lacks tensors of Segment Anything"):
            build_sam(incomplete, source="a.pth")
    flat = {**sam.state_dict(), "image_encoder.pos_embed": torch.zeros(4)}
    with pytest.raises(CheckpointMismatchError, match="the file lacks tensors"):
        build_sam(flat)
    no_blocks = {name: value for name, value in sam.state_dict().items() if ".blocks." not in name}
    with pytest.raises(CheckpointMismatchError, match="lacks tensors of Segment Anything"):
        build_sam(no_blocks)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pth", "is no file, folder, Hub id"),
        ("folder/missing.safetensors", "is no file, folder, Hub id"),
        ("vit_x", r"'vit_x' is no file, folder, Hub id 'owner/name' or one of vit_b, vit_l, vit_h"),
        ("/a/b/c", "is no file, folder, Hub id"),
    ],
)
def test_names_of_nothing(name, message):
    with pytest.raises(ModelLoadError, match=message):
        find_weights(name, HubOptions())


def test_folder_without_weights(tmp_path):
    with pytest.raises(ModelLoadError, match=r"has no sub/model\.safetensors; pass the \.pth"):
        find_weights(tmp_path, HubOptions(subfolder="sub"))


def test_failed_download(tmp_path):
    # A network that refuses everything is what the tests run on.
    with pytest.raises(
        ModelLoadError,
        match=r"model\.safetensors of 'owner/name' .* is not in the local cache, and local_files",
    ):
        find_weights("owner/name", HubOptions(cache_dir=tmp_path, local_files_only=True))


def test_a_bad_device_or_option_is_told_before_the_download(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(ArgumentError, match=r"device must be 'auto'.* got 'abacus'"):
        SamMaskGenerator.from_pretrained("vit_b", device="abacus")
    with pytest.raises(ArgumentError, match="points_per_side"):
        load_generator("vit_b", device="cpu", options={"points_per_side": 0})
