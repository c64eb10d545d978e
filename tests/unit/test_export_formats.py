"""Exports in other tools' formats: the very weights, and back again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf as upstream
import numpy as np
import pytest

from entrypoints import export
from entrypoints.exporting import card, source
from entrypoints.exporting.gguf import SUFFIXES
from entrypoints.fetching import gguf, huggingface, sentencepiece_file
from entrypoints.models import safetensors_file
from entrypoints.models.files import weight_files, write_json
from paddle_stacks.errors import MachineError, RequestError, StackError, render
from tests.support import hugging_face_files
from tests.support.gguf_files import TOKENS

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(here: Path, **options: Any) -> Path:
    """Make the models ``hub/m``, as Hugging Face has it, and ``models/m``, as PaddleNLP has it."""
    hub, folder = here / "hub" / "m", here / "models" / "m"
    hugging_face_files.write(hub, **options)
    (hub / "chat_template.jinja").write_text(TEMPLATE)
    folder.mkdir(parents=True)
    huggingface.convert(hub, folder)
    return folder


def run(*argv: str) -> Path:
    line = ["--model", "m", "--output", "out/x", *argv]
    assert export.main(line) == 0
    return Path("out/x")


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    weights = {}
    for path in weight_files(folder):
        with safetensors_file.opened(path) as tensor:
            for name, entry in safetensors_file.read_header(path).items():
                weights[name] = (entry.dtype, tensor(entry).tobytes())
    return weights


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("tied", [True, False])
def test_hugging_face_gets_its_own_weights_back(here: Path, dtype: str, tied: bool) -> None:
    folder = model(here, dtype=dtype, tied=tied, config={"rms_norm_eps": 1e-5, "rope_theta": 5e4})
    output = run("--format", "huggingface")
    assert stored(output) == stored(here / "hub" / "m")
    config = json.loads((output / "config.json").read_text())
    original = json.loads((here / "hub" / "m" / "config.json").read_text())
    for key in ("vocab_size", "num_key_value_heads", "rms_norm_eps", "rope_theta"):
        assert config[key] == original[key]
    assert config["tie_word_embeddings"] is tied
    assert (output / "chat_template.jinja").read_text() == TEMPLATE
    settings = json.loads((output / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == TEMPLATE
    back = here / "back"
    back.mkdir()
    huggingface.convert(output, back)
    for path in folder.iterdir():
        if path.name != "config.json":
            assert (back / path.name).read_bytes() == path.read_bytes(), path.name


def test_transformers_metadata_and_llama_3s_scaling(here: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model(here, config={"rope_scaling": scaling})
    output = run("--format", "huggingface")
    assert b'"format":"pt"' in (output / "model.safetensors").read_bytes()[:200]
    assert json.loads((output / "config.json").read_text())["rope_scaling"] == scaling
    path = run("--format", "gguf", "--force") / "x-f32.gguf"
    tensors = {tensor.name: tensor for tensor in upstream.GGUFReader(path).tensors}
    factors = tensors["rope_freqs.weight"].data
    assert factors[0] == 1.0
    assert factors[-1] == 8.0


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")]
)
def test_precisions(here: Path, precision: str, dtype: str) -> None:
    model(here)
    before = stored(here / "hub" / "m")
    after = stored(run("--format", "huggingface", "--precision", precision))
    for name, (kind, data) in after.items():
        assert kind == dtype
        values = np.frombuffer(before[name][1], dtype="<f4")
        if dtype == "BF16":  # nearest of the two neighbours
            got = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
            assert np.all(np.abs(got - values) <= np.abs(values) * 2**-8)
        else:
            kind_of = {"F32": "<f4", "F16": "<f2"}[dtype]
            assert np.array_equal(np.frombuffer(data, kind_of), values.astype(kind_of))


def test_bfloat16_rounds_to_even_as_hardware_does() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF80FFFF], dtype="<u4")
    assert source.converted(bits, "F32", "BF16", "w").tolist() == [0x3F80, 0x3F82, 0x3F81, 0xBF81]


def test_paddlenlp_is_a_copy(here: Path) -> None:
    folder = model(here, dtype="BF16")
    output = run("--format", "paddlenlp")
    assert stored(output) == stored(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (output / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_comes_back_bit_by_bit(here: Path, tied: bool) -> None:
    folder = model(here, tied=tied)
    path = run("--format", "gguf") / "x-f32.gguf"
    back = here / "back"
    back.mkdir()
    gguf.convert(path, back)
    assert stored(back) == stored(folder)
    for name in ("vocab", "merges"):
        files = [json.loads((each / "tokenizer.json").read_text()) for each in (back, folder)]
        assert files[0]["model"][name] == files[1]["model"][name]
    reader = upstream.GGUFReader(path)
    assert reader.fields["tokenizer.chat_template"].contents() == TEMPLATE
    assert reader.fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert reader.fields["tokenizer.ggml.tokens"].contents() == TOKENS


@pytest.mark.parametrize(
    ("precision", "kind"), [("float16", "F16"), ("bfloat16", "BF16"), ("q8_0", "Q8_0")]
)
def test_types_of_a_gguf_file(here: Path, precision: str, kind: str) -> None:
    model(here)
    suffix = SUFFIXES[precision]
    path = run("--format", "gguf", "--precision", precision) / f"x-{suffix}.gguf"
    types = {tensor.name: tensor.tensor_type.name for tensor in upstream.GGUFReader(path).tensors}
    assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    assert types["blk.0.attn_v.weight"] in (kind, "F16")
    assert types["blk.0.attn_q.weight"] in (kind, "F16")
    (here / "back").mkdir()
    gguf.convert(path, here / "back")
    before, after = stored(here / "models" / "m"), stored(here / "back")
    for name, (_, data) in before.items():
        values, got = np.frombuffer(data, "<f4"), np.frombuffer(after[name][1], "<f4")
        assert np.allclose(got, values, atol=0.02 * np.abs(values).max())


def test_a_sentencepiece_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    vocabulary = sentencepiece_file.Vocabulary(
        ["<unk>", "<s>", "</s>", "<0x0A>", "▁a", "b"],
        [0.0, 0.0, 0.0, -1.0, -2.0, -3.5],
        [2, 3, 3, 6, 1, 4],
        unknown=0,
        begin=1,
        end=2,
        dummy_prefix=False,
    )
    path = tmp_path / "m"
    path.write_bytes(sentencepiece_file.encode(vocabulary))
    assert sentencepiece_file.vocabulary(path) == vocabulary


def test_a_sharded_model_is_read(here: Path) -> None:
    model(here, shards=2)
    assert stored(run("--format", "huggingface")) == stored(here / "hub" / "m")


# ---------------------------------------------------------------------- what is refused


def spoil_config(**changes: Any) -> None:
    path = Path("models/m/config.json")
    write_json(path, {**json.loads(path.read_text()), **changes})


def spoil_tokenizer(**changes: Any) -> None:
    path = Path("models/m/tokenizer.json")
    write_json(path, {**json.loads(path.read_text()), **changes})


def without_merges() -> None:
    path = Path("models/m/tokenizer.json")
    tokenizer = json.loads(path.read_text())
    write_json(path, {**tokenizer, "model": {**tokenizer["model"], "merges": []}})


def with_large_weight() -> None:
    path = Path("models/m/model.safetensors")
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(1e6).tobytes()
    path.write_bytes(data)


def with_peft(**config: Any) -> None:
    folder = Path("runs/a")
    folder.mkdir(parents=True)
    write_json(folder / "lora_config.json", {"r": 4, "lora_alpha": 8, **config})


BAD = [
    (["--format", "onnx"], None, "invalid choice: 'onnx'"),
    (["--format", "gguf", "--merge", "--adapter", "a"], None, "cannot be combined with --merge"),
    (["--format", "gguf", "--static"], None, "cannot be combined with --static"),
    (["--format", "peft"], None, "requires --adapter"),
    (["--merge", "--adapter", "a", "--precision", "float16"], None, "--precision requires"),
    (["--format", "huggingface", "--precision", "q8_0"], None, "q8_0 is for --format gguf"),
    (["--format", "huggingface", "--precision", "int4"], None, "invalid choice: 'int4'"),
    (["--format", "peft", "--adapter", "a", "--precision", "float16"], None, "does not take"),
    (["--format", "gguf", "--adapter", "gone"], None, 'no run "gone"'),
    (
        ["--format", "gguf", "--output", "models/m"],
        None,
        "the output folder would replace the input",
    ),
    (["--format", "gguf", "--output", "hub"], None, "--force replaces it"),
    (
        ["--format", "huggingface"],
        lambda: spoil_config(architectures=["Qwen2ForCausalLM"]),
        'not "Qwen2ForCausalLM"',
    ),
    (
        ["--format", "huggingface"],
        lambda: spoil_config(quantization_config={"quant_type": "a8w8"}),
        "the model is quantized",
    ),
    (["--format", "gguf"], lambda: spoil_config(rope_scaling_type="ntk"), '"ntk"'),
    (["--format", "huggingface"], lambda: spoil_config(hidden_size=128), "has the shape"),
    (
        ["--format", "gguf"],
        lambda: spoil_tokenizer(pre_tokenizer={"type": "Whitespace"}),
        "name of the tokenizer's rules is not known",
    ),
    (["--format", "gguf"], without_merges, "has no merges"),
    (
        ["--format", "huggingface"],
        lambda: Path("models/m/tokenizer.json").unlink(),
        "neither tokenizer.json nor sentencepiece.bpe.model",
    ),
    (["--format", "huggingface", "--precision", "float16"], with_large_weight, "beyond float16"),
    (
        ["--format", "peft", "--adapter", "a"],
        lambda: with_peft(lora_use_mixer=True),
        "PEFT has no matrix between the factors",
    ),
    (["--format", "peft", "--adapter", "a"], lambda: with_peft(pissa=True), "(pissa)"),
]


@pytest.mark.parametrize(("argv", "spoil", "words"), BAD, ids=[words for _, _, words in BAD])
def test_bad_requests(here: Path, argv: list[str], spoil: Any, words: str) -> None:
    model(here)
    if spoil:
        spoil()
    with pytest.raises(StackError) as caught:
        export.main(["--model", "m", "--output", "out/x", *argv])
    assert caught.value.status == 2
    assert words in render(caught.value)
    assert not Path("out/x").exists()
    assert not list(Path().glob("out/.x.*.part"))


def test_a_disk_that_is_too_small(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(here)
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    with pytest.raises(MachineError, match="the export takes up to 1 MiB, and 0 MiB are"):
        run("--format", "huggingface")


def test_the_card_says_where_the_model_comes_from(here: Path) -> None:
    run_folder = here / "runs" / "r"
    shutil.copytree(model(here), run_folder / "model")
    settings = {"model_name_or_path": "m", "dataset_name_or_path": "data/a|b", "learning_rate": 0.1}
    write_json(run_folder / "config.json", settings)
    write_json(run_folder / "result.json", {"steps": 7, "eval_loss": 0.5, "seconds": 3})
    text = (run("--model", "runs/r", "--format", "huggingface") / card.CARD).read_text()
    for line in (
        'base_model: "m"',
        'library_name: "transformers"',
        "| licence of the base model | unknown: see the base model |",
        "| format, precision | huggingface, float32 |",
        "| fine-tuned in the run | r |",
        "| `dataset_name_or_path` | data/a\\|b |",
        "| `eval_loss` | 0.5 |",
        "vllm serve x",
    ):
        assert line in text
    assert "seconds" not in text


def test_biases_that_are_not_zero_are_refused(here: Path) -> None:
    folder = model(here)
    header = safetensors_file.read_header(folder / "model.safetensors")
    name = "llama.layers.0.self_attn.q_proj"
    width = header[f"{name}.weight"].shape[1]
    for value, fails in ((0.0, False), (0.5, True)):
        weights = stored(folder)
        tensors = {
            key: np.frombuffer(data, "<f4").reshape(header[key].shape)
            for key, (_, data) in weights.items()
        }
        tensors[f"{name}.bias"] = np.full(width, value, dtype="<f4")
        hugging_face_files.save(here / "b.safetensors", tensors, "F32")
        copy = here / "models" / f"b{fails:d}"
        shutil.copytree(folder, copy)
        shutil.copyfile(here / "b.safetensors", copy / "model.safetensors")
        if not fails:
            run("--model", copy.name, "--format", "huggingface")
            continue
        with pytest.raises(RequestError, match=r"q_proj\.bias is not zero"):
            run("--model", copy.name, "--format", "huggingface", "--force")
