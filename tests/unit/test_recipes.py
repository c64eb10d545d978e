"""Recipes: every one of them plans, and a file that is wrong says where."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from paddle_stacks import launch, recipe_needs, recipe_page, recipes
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs import schema
from paddle_stacks.plan import show
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
DCU = recipes.load(ROOT, "dcu")
CPU = recipes.load(ROOT, "cpu")
DENSE = [
    f"{line}-{kind}" for line in ("infer", "export", "infer-static") for kind in ("fp16", "a8w8")
]
PLANNED = [name for name in DCU if name != "sft-13b"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs" / "jobs", tmp_path / "configs" / "jobs")
    return tmp_path


def settings(workspace: Path, backend: str = "dcu") -> Settings:
    # A host without an hy-smi: then the card is a K100_AI.
    return Settings(root=ROOT, workspace=workspace, backend=backend, host_root=workspace)


def planned(
    workspace: Path,
    name: str,
    *arguments: str,
    changes: Sequence[str] = (),
    cards: tuple[int, ...] = (),
) -> launch.Steps:
    recipe = DCU[name]
    if recipe.nodes > 1 and not arguments:
        arguments = ("--master", "10.0.0.1:8090", "--rank", "0")
    choices = launch.Choices(recipe=name, changes=tuple(changes), cards=cards)
    return launch.make_steps(recipe.job, arguments, settings(workspace), choices)


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")


@pytest.mark.parametrize("name", PLANNED)
def test_every_recipe_plans(workspace: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, steps = DCU[name], planned(workspace, name)
    plan = steps.plan
    assert plan.job == recipe.job
    assert plan.backend == "dcu" and plan.image.endswith(":dcu")
    assert plan.ranks == recipe.cards
    if recipe.script:
        assert plan.argv[0] == "upstream" and recipe.script in plan.argv
        assert plan.image == "paddle-stacks/train:dcu", "the image of inference has too little"
    launch.print_plan(steps, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["recipe"] == name
    models = list(dict.fromkeys(each["produces"] for each in shown["before"]))
    assert models[0] == f"models/{recipe.model}", "no model is here, so it is fetched"
    wanted = [each.name for each in recipes.steps(recipe, DCU)]
    assert [each["recipe"] for each in shown["before"] if each["recipe"]] == wanted
    launch.print_plan(steps, as_json=False)
    text = capsys.readouterr().out
    assert f"plan: {recipe.job} on dcu" in text and "docker run --rm" in text


def test_the_documented_jobs_are_all_there() -> None:
    for way in ("", "static-", "block-", "block-static-"):
        for kind in ("fp16", "a8w8", *(["cachekv-int8"] if "block" in way else [])):
            assert f"infer-{way}{kind}" in DCU
            assert f"infer-{way}{kind}-benchmark" in DCU
    assert {"lora-13b", "sft-13b", "pretrain-pp8", "pretrain-pp8-nodes", "infer-7b"} <= set(DCU)
    assert {"quantize-a8w8", "quantize-a8w8c8"} <= set(DCU)


@pytest.mark.parametrize("name", [name for name in PLANNED if name.endswith("-benchmark")])
def test_a_benchmark_measures_what_is_documented(workspace: Path, name: str) -> None:
    line = " ".join(planned(workspace, name).plan.argv)
    assert "--batch_size 1 --src_length 3072 --max_length 1024 --benchmark" in line
    assert f"--output_file runs/{name}/output.json" in line


def test_full_fine_tuning_on_one_card_is_refused_with_its_numbers(workspace: Path) -> None:
    with pytest.raises(RequestError) as caught:
        planned(workspace, "sft-13b")
    told = caught.value.problems[0]
    assert "194.0 GiB" in told.what and "64.0 GiB" in told.what and "16 bytes" in told.what
    assert "sft-13b-8-cards" in told.remedy


@pytest.mark.parametrize("name", DENSE)
def test_a_recipe_without_block_attention_says_that_it_is_slower(name: str) -> None:
    (text,) = [text for text in DCU[name].deviations if "composed" in text]
    assert "slower" in text and "never run on a card" in text
    if "as in infer-fp16" in text:
        (text,) = [text for text in DCU["infer-fp16"].deviations if "composed" in text]
    assert "slower than the recipe with block in its name" in text
    assert "block_attn" not in DCU[name].arguments


def test_steps_before_are_in_order_and_left_out_where_they_are_done(workspace: Path) -> None:
    steps = planned(workspace, "infer-block-static-a8w8")
    named = [(step.recipe, step.produces, step.whole) for step in steps.before]
    quantized, exported = (
        "models/llama-2-13b-chat-a8w8",
        "models/llama-2-13b-chat-static-block-a8w8",
    )
    assert named == [
        ("", "models/llama-2-13b-chat", False),
        ("quantize-a8w8", quantized, False),
        ("export-block-a8w8", exported, False),
    ]
    put(workspace / "models" / "llama-2-13b-chat", "config.json")
    put(workspace / quantized, "config.json", "model.safetensors")
    steps = planned(workspace, "infer-block-static-a8w8")
    assert [(s.recipe, s.whole) for s in steps.before] == [
        ("quantize-a8w8", True),
        ("export-block-a8w8", False),
    ]
    # A run that was cut off has left a folder that looks like a model.
    (workspace / "runs" / "quantize-a8w8").mkdir(parents=True)
    assert not planned(workspace, "infer-block-static-a8w8").before[0].whole
    (workspace / "runs" / "quantize-a8w8" / "result.json").write_text("{}")
    assert planned(workspace, "infer-block-static-a8w8").before[0].whole


def test_launch_runs_what_is_not_there_and_stops_at_a_failure(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(workspace / "models" / "llama-2-13b-chat", "config.json")
    put(workspace / "models" / "llama-2-13b-chat-a8w8", "config.json", "model.safetensors")
    ran: list[str] = []
    status = 0

    def run(plan: launch.Plan, _: Settings) -> int:
        ran.append(plan.job)
        return status

    monkeypatch.setattr(launch, "run", run)
    choices = launch.Choices(recipe="infer-block-static-a8w8")
    with pytest.raises(MachineError, match="/dev/kfd"):
        launch.launch("infer", (), settings(workspace), choices)
    assert ran == [], "the machine is looked at before the first step"
    monkeypatch.setattr(launch.preflight, "check_machine", lambda plan, settings: None)
    assert launch.launch("infer", (), settings(workspace), choices) == 0
    assert ran == ["export", "infer"]
    assert "exists already: models/llama-2-13b-chat-a8w8" in capsys.readouterr().err
    ran, status = [], 5
    assert launch.launch("infer", (), settings(workspace), choices) == 5
    assert ran == ["export"]


def test_a_change_reaches_the_program(workspace: Path) -> None:
    line = planned(workspace, "infer-block-fp16", changes=["top_p=0.9", "max_length=64"]).plan.argv
    assert line[line.index("--top_p") + 1] == "0.9"
    assert line[line.index("--max_length") + 1] == "64"
    line = planned(workspace, "pretrain-pp8", changes=["max_steps=10"]).plan.argv
    assert line[-3:] == ("configs/jobs/dcu/pretrain-pp8.json", "--max_steps", "10")
    line = planned(workspace, "lora-13b", changes=["lora_rank=4"]).plan.argv
    assert line[line.index("--set") + 1] == "lora_rank=4"
    with pytest.raises(RequestError, match="learning_rat"):
        planned(workspace, "lora-13b", changes=["learning_rat=4"])
    with pytest.raises(RequestError, match="KEY=VALUE"):
        planned(workspace, "infer-block-fp16", changes=["top_p"])


def test_several_nodes(workspace: Path) -> None:
    plan = planned(workspace, "pretrain-pp8-nodes", "--master=h:1", "--rank=2", "--nnodes=3").plan
    line = " ".join(plan.argv)
    assert "--ranks 8 --nnodes 3 --master h:1 --rank 2 run_pretrain.py" in line
    assert plan.network == "host", "the nodes have to reach each other"
    assert plan.environment["NCCL_IB_TIMEOUT"] == "22"
    with pytest.raises(RequestError, match="rendezvous address") as caught:
        planned(workspace, "pretrain-pp8-nodes", "--rank=0")
    assert "--master HOST:PORT" in caught.value.problems[0].remedy


def test_picked_cards(workspace: Path) -> None:
    plan = planned(workspace, "pretrain-pp8", cards=tuple(range(8, 16))).plan
    assert plan.environment["HIP_VISIBLE_DEVICES"] == "8,9,10,11,12,13,14,15"
    with pytest.raises(RequestError) as caught:
        planned(workspace, "pretrain-pp8", cards=(0, 1, 2, 3))
    assert "needs 8 devices; --devices lists 4" in caught.value.problems[0].what
    steps = planned(workspace, "infer-block-static-fp16", cards=(3,))
    assert {step.plan.cards for step in steps.before if step.recipe} == {(3,)}


def test_a_recipe_decides_the_jobs_own_arguments(workspace: Path) -> None:
    with pytest.raises(RequestError, match="sets --prompt"):
        planned(workspace, "infer-block-fp16", "--prompt=x")
    plan = planned(workspace, "infer-block-fp16", "--name=mine").plan
    assert "runs/mine/output.json" in plan.argv


def test_the_wrong_name_and_the_wrong_job(workspace: Path) -> None:
    for job, name, said in (
        ("infer", "infer-fp61", 'did you mean "infer-fp16"?'),
        ("infer", "lora-13b", "./inv finetune --backend dcu --recipe lora-13b"),
        ("pretrain", "pretrain-pp", "pretrain-pp8"),
    ):
        with pytest.raises(RequestError) as caught:
            launch.make_steps(job, (), settings(workspace), launch.Choices(recipe=name))
        assert said in caught.value.problems[0].remedy


def test_without_a_recipe_nothing_comes_before(workspace: Path) -> None:
    steps = launch.make_steps("infer", ["--model", "m", "--chat"], settings(workspace))
    assert steps.before == () and steps.as_json() == show.as_json(steps.plan)


def test_upstreams_programs_are_not_there_on_a_cpu(workspace: Path) -> None:
    with pytest.raises(RequestError) as caught:
        launch.make_steps("upstream", ["run_finetune.py"], settings(workspace, "cpu"))
    remedy = caught.value.problems[0].remedy
    assert remedy == "./inv upstream run_finetune.py --backend dcu"


def test_a_configuration_of_ones_own(workspace: Path) -> None:
    config = workspace / "configs" / "jobs" / "dcu" / "pretrain-pp8.json"
    shutil.copy(config, workspace / "mine.json")
    line = ["--config", "mine.json", "--ranks", "8", "--set", "max_steps=3000"]
    plan = launch.make_plan("pretrain", line, settings(workspace))
    assert plan.argv == (
        *("pretrain", "--config", "mine.json", "--set", "max_steps=3000", "--ranks", "8"),
    )
    assert plan.ranks == 8
    with pytest.raises(RequestError, match="requires 8 devices"):
        launch.make_plan("pretrain", ["--config", "mine.json"], settings(workspace))


@pytest.mark.parametrize("name", CPU)
def test_the_recipes_of_a_cpu_plan(workspace: Path, name: str) -> None:
    recipe = CPU[name]
    steps = launch.make_steps(
        recipe.job, (), settings(workspace, "cpu"), launch.Choices(recipe=name)
    )
    program = "upstream" if recipe.script else recipe.job
    assert steps.plan.argv[0] == program and steps.plan.backend == "cpu"
    if recipe.job == "quantize":
        assert steps.plan.argv == ("quantize", "--config", recipe.config)
    elif recipe.config:
        assert steps.plan.argv == (recipe.job, "--config", recipe.config, "--name", name)
    assert steps.before[0].produces == f"models/{recipe.model}"


def test_the_documented_inference_is_there_on_a_cpu() -> None:
    inference = {name for name, recipe in DCU.items() if recipe.job in ("export", "infer")}
    assert inference <= set(CPU)
    for name in inference:
        recipe = CPU[name]
        assert recipe.model == "smollm2-135m-instruct", name
        assert "llama-2" not in json.dumps([recipe.arguments, recipe.produces]), name
        assert set(recipe.arguments) == set(DCU[name].arguments), name


@pytest.mark.parametrize("backend", ["cpu", "dcu"])
def test_another_model_takes_the_place_of_the_recipes_own(workspace: Path, backend: str) -> None:
    choices = launch.Choices(recipe="infer-block-static-cachekv-int8")
    here = settings(workspace, backend)
    steps = launch.make_steps("infer", ["--model=models/llama-nano"], here, choices)
    shown = json.dumps(steps.as_json())
    assert "llama-2" not in shown.replace("configs/jobs/dcu", "") and "smollm2" not in shown
    assert [step.produces for step in steps.before] == [
        "models/llama-nano",
        "models/llama-nano-a8w8c8",
        "models/llama-nano-static-block-cachekv-int8",
    ]
    quantize = " ".join(steps.before[1].plan.argv)
    options = ("model_name_or_path", "output_dir")
    wanted = ("models/llama-nano", "models/llama-nano-a8w8c8")
    for key, value in zip(options, wanted, strict=True):
        form = f"--set {key}={value}" if backend == "cpu" else f"--{key} {value}"
        assert form in quantize


def test_a_model_that_is_no_name(workspace: Path) -> None:
    for value in ("/mnt/model", "../model", "models/a/b"):
        with pytest.raises(RequestError, match="is not the name of a model") as caught:
            planned(workspace, "infer-block-fp16", f"--model={value}")
        assert caught.value.problems[0].remedy.endswith(f"then --model {Path(value).name}")


def test_a_wrong_include_says_where(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    path = tmp_path / "configs" / "recipes" / "cpu.toml"
    path.write_text(path.read_text().replace('jobs = ["export", "infer"]', 'job = "infer"'))
    with pytest.raises(RequestError) as caught:
        recipes.load(tmp_path, "cpu")
    unknown, missing = caught.value.problems
    assert '"job"' in unknown.what and "jobs" in unknown.remedy
    assert missing.what == '[include] "jobs" must be a list of strings'
    assert missing.where.startswith(f"{path}:")


def test_text_is_prepared_before_it_is_trained_on(workspace: Path) -> None:
    def make(*arguments: str, changes: tuple[str, ...] = ()) -> launch.Steps:
        choices = launch.Choices(recipe="pretrain-demo", changes=changes)
        return launch.make_steps("pretrain", arguments, settings(workspace, "cpu"), choices)

    steps = make()
    prepared = "data/python-stdlib/modules"
    assert [(step.recipe, step.produces) for step in steps.before] == [
        ("", "models/llama-nano"),
        ("python-stdlib", prepared),
    ]
    launch.check_requests(steps)  # the corpus does not exist yet
    line = " ".join(steps.before[1].plan.argv)
    assert line == (
        f"prepare --input text:python-stdlib --output {prepared} --model llama-nano --append-eos"
    )
    # A model without weights is what it begins with.
    put(workspace / "models" / "llama-nano", "config.json")
    # The job itself keeps a corpus that is the same, and refuses another one.
    put(workspace / "data" / "python-stdlib", "modules.bin", "modules.idx")
    steps = make("--ranks=2", changes=("max_steps=3",))
    assert [(step.recipe, step.whole) for step in steps.before] == [("python-stdlib", False)]
    assert steps.plan.ranks == 2
    line = " ".join(steps.plan.argv)
    assert "--name pretrain-demo" in line and "--ranks 2" in line and "--set max_steps=3" in line


def test_a_recipe_of_prepare(workspace: Path) -> None:
    here = settings(workspace, "cpu")
    choices = launch.Choices(recipe="python-stdlib", changes=("workers=1",))
    plan = launch.make_plan("prepare", (), here, choices)
    assert plan.argv[-2:] == ("--workers", "1") and plan.argv[0] == "prepare"
    with pytest.raises(RequestError, match="sets --output"):
        launch.make_plan("prepare", ("--output=data/x",), here, choices)
    wrong = launch.Choices(recipe="python-stdlib", changes=("worker=1",))
    with pytest.raises(RequestError, match="--worker"):
        launch.make_plan("prepare", (), here, wrong)


def test_the_configurations_of_a_cpu_are_right() -> None:
    for recipe in CPU.values():
        if recipe.config and not recipe.script:
            config = schema.load(ROOT / recipe.config, job=recipe.job, backend="cpu")
            assert config.notes == ()
            assert Path(config["model_name_or_path"]).name == recipe.model


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "jobs" / "dcu").glob("*.json")))
def test_a_configuration_has_none_of_the_documented_mistakes(path: Path) -> None:
    values = json.loads(path.read_text())
    assert not {"eval_step", "save_step", "intokens"} & set(values)
    assert values.get("eval_with_do_generation") in (False, None)
    assert values["fp16"] is True and not values.get("bf16")
    assert None not in values.values(), "upstream's parser would make the word None of it"
    data = values.get("dataset_name_or_path") or values["input_dir"]
    assert data == ("data/openwebtext" if "pretrain" in path.stem else "data/alpaca")
    if "pretrain" not in path.stem and "quantize" not in path.stem and "8-cards" not in path.stem:
        schema.load(path, backend="dcu")


NEEDS = recipe_needs.all_of(DCU, ROOT)


def test_every_recipe_has_needs_and_an_advice() -> None:
    own = {name: recipe for name, recipe in DCU.items() if not name.endswith(recipes.BENCHMARK)}
    assert list(NEEDS) == list(own)
    for name, recipe in own.items():
        assert recipe.advice and NEEDS[name].disk > 0 < NEEDS[name].memory, name
        other = re.search(r"take ([a-z0-9-]+-[a-z0-9-]+)", recipe.advice)
        assert not other or other[1] in own, recipe.advice
        assert (NEEDS[name].time == "not measured") is (recipe.job not in ("finetune", "pretrain"))


def test_the_recipe_that_does_not_fit_is_marked() -> None:
    assert NEEDS["sft-13b"].memory_text == "272 > 64"
    assert NEEDS["sft-13b-8-cards"].memory_text == "44"


def test_the_disk_that_recipes_need() -> None:
    size, gb = 13_015_864_320, 10**9
    assert NEEDS["infer-fp16"].disk == 2 * size
    # a checkpoint of LoRA is small: 31,293,440 parameters
    assert 2 * size < NEEDS["lora-13b"].disk < 2 * size + gb
    # float16 weights, float32 copies and moments; save_total_limit 1, one more while it is written
    assert NEEDS["sft-13b-8-cards"].disk == 2 * size + 2 * 14 * size + 2 * size
    assert NEEDS["pretrain-pp8"].disk == 2 * size + 11 * 14 * size + 2 * size, "save_total_limit 10"
    quantized = NEEDS["quantize-a8w8"].disk - 2 * size
    assert size < quantized < 1.05 * size
    assert NEEDS["export-block-a8w8"].disk == 2 * size + 2 * quantized
    assert DCU["pretrain-pp8"].advice.endswith(f"need {(3 * 14 + 2) * size // gb} GB")


def test_a_quantized_model_and_cache_need_less_memory() -> None:
    names = ("infer-block-fp16", "infer-block-a8w8", "infer-block-cachekv-int8")
    half, a8w8, a8w8c8 = (NEEDS[name].memory for name in names)
    assert half > a8w8 > a8w8c8
    dynamic = NEEDS["infer-block-cachekv-int8-dynamic"].memory
    assert a8w8 < dynamic < half, "float16 weights and an int8 cache"


def test_a_model_of_unknown_shape_has_no_needs() -> None:
    assert recipe_needs.of(replace(DCU["infer-7b"], model="unknown"), ROOT) is None


def test_the_page_is_made_from_the_file() -> None:
    introduction = (ROOT / "configs" / "recipes" / "dcu.md").read_text()
    lines, needs = recipes.lines(ROOT, "dcu"), recipe_needs.all_of(DCU, ROOT)
    made = recipe_page.as_markdown(introduction, DCU, lines, "dcu", needs)
    assert (ROOT / "docs" / "recipes.md").read_text() == made, (
        "./inv recipes --markdown > docs/recipes.md"
    )
    for recipe in DCU.values():
        for line in recipe.documented:
            assert line in made


def broken(tmp_path: Path, text: str) -> list[tuple[str, str]]:
    folder = tmp_path / "configs" / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "odd.toml").write_text(text)
    with pytest.raises(RequestError) as caught:
        recipes.load(tmp_path, "odd")
    return [(p.what, p.where.rpartition("odd.toml")[2]) for p in caught.value.problems]


GOOD = '[a]\njob = "infer"\nsummary = "x"\nscript = "s.py"\n'


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ('[a]\njob = "infer"\nscript = "s"\n', '"summary" is missing', ":1"),
        (GOOD + "cardz = 1\n", 'unknown key "cardz"', ":5"),
        (GOOD + "cards = 0\n", '"cards" must be a whole number above 0', ":5"),
        (GOOD + 'benchmark = "yes"\n', '"benchmark" must be true or false', ":5"),
        (GOOD + 'depends_on = ["b"]\n', '"depends_on" has an unknown recipe: "b"', ":5"),
        (GOOD + 'depends_on = ["a"]\nproduces = "m"\n', "depends on itself", ":5"),
        (GOOD + 'fallback = "b"\n', '"fallback" has an unknown recipe', ":5"),
        (
            GOOD + 'benchmark = true\nfallback = "b"\n' + GOOD.replace("[a]", "[b]"),
            'its fallback "b" has none',
            ":6",
        ),
        (GOOD + 'config = "no.json"\n', "no.json does not exist", ":5"),
        (
            GOOD + 'depends_on = ["b"]\n' + GOOD.replace("[a]", "[b]"),
            'depends on "b", which has no "produces"',
            ":5",
        ),
        ('[a]\njob = "infre"\nsummary = ""\nscript = "s"\n', '"infre" cannot have recipes', ":2"),
        ('[a]\njob = "infer"\nsummary = ""\n', 'needs a "config", a "script" or both', ":1"),
        ('[a]\njob = "prepare"\nsummary = ""\n', '"arguments" is missing', ":1"),
        ('[a]\njob = "prepare"\nsummary = ""\n', '"produces" is missing', ":1"),
        ('[A_b]\njob = "infer"\nsummary = ""\nscript = "s"\n', "cannot name a recipe", ":1"),
        ("a = 1\n", '"a" is not a recipe', ":1"),
        (GOOD + '[[line]]\nours = "x"\n', '"documented", a string', ":5"),
        ("[a\n", "not TOML", ":1"),
    ],
)
def test_a_wrong_file_is_told_with_the_line(
    tmp_path: Path, text: str, what: str, line: str
) -> None:
    found = broken(tmp_path, text)
    assert any(what in told and place == line for told, place in found), found


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD + "cards = 0\nx = 1\n" + '[b]\njob = "nope"\nsummary = 1\nscript = "s"\n'
    assert len(broken(tmp_path, text)) == 4


def test_a_platform_without_recipes(tmp_path: Path) -> None:
    for folder, text in (("backends", 'summary = "x"\n'), ("recipes", GOOD)):
        (tmp_path / "configs" / folder).mkdir(parents=True)
        (tmp_path / "configs" / folder / f"{folder}.toml").write_text(text)
    with pytest.raises(RequestError) as caught:
        recipes.load(tmp_path, "backends")
    assert caught.value.problems[0].what == "backends has no recipes"
    assert "one of: recipes" in caught.value.problems[0].remedy


def test_a_platform_has_the_recipes_of_the_one_that_it_extends() -> None:
    assert recipes.load(ROOT, "dcu-sim") == recipes.load(ROOT, "dcu")
