"""Recipes: found by name or path, refused as a whole, and safe to save."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from clippy import CLIPpy
from clippy.architecture import TextConfig
from clippy.config import ConfigError
from clippy.tokens import build_tokenizer
from pipelines.credentials import without_credentials
from pipelines.recipe import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_resolves_to_itself(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_builds_its_model_on_the_meta_device(name: str) -> None:
    model = load_recipe(name).model
    image = model.image.model_copy(update={"pretrained": False})  # what follows needs no weights
    text = model.text.model_copy(update={"pretrained": None})
    with torch.device("meta"):
        built = CLIPpy(
            model.model_copy(update={"image": image, "text": text}),
            build_tokenizer(TextConfig(tokenizer="bytes", max_tokens=text.max_tokens)),
        )
    if name.startswith("cc12m") and "clip" in name:
        assert sum(p.numel() for p in built.image.parameters()) in (85_798_656, 86_250_240)  # at 224 and at 448


def test_a_recipe_is_its_base_with_some_fields_changed() -> None:
    base, child = load_recipe("cc12m-clippy"), load_recipe("cc12m-clippy-dropout")
    assert base.differences(child) == [
        "name: 'cc12m-clippy' -> 'cc12m-clippy-dropout'",
        "model.image.image_size: 224 -> 448",
        "model.image.patch_dropout: 0.0 -> 0.8",
    ]
    assert load_recipe("cc12m-clippy-supervised-random-text").model.image.name.startswith("deit_")
    assert load_recipe("cc12m-clippy-supervised-random-text").model.text.pretrained is None


def test_a_base_is_found_beside_the_file_and_must_not_be_circular(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: shapes\nname: mine\ntrain: {steps: 77}\n")
    (tmp_path / "theirs.yaml").write_text("base: mine.yaml\nname: theirs\noptim: {weight_decay: 0.5}\n")
    recipe = load_recipe(str(tmp_path / "theirs.yaml"), ["seed=3"])
    assert (recipe.name, recipe.seed, recipe.train.steps, recipe.optim.weight_decay) == ("theirs", 3, 77, 0.5)
    assert recipe.optim.learning_rate == load_recipe("shapes").optim.learning_rate
    (tmp_path / "mine.yaml").write_text("base: theirs.yaml\n")
    with pytest.raises(ConfigError, match="builds on this recipe itself"):
        load_recipe(str(tmp_path / "theirs.yaml"))
    (tmp_path / "mine.yaml").write_text("base: [1]\n")
    with pytest.raises(ConfigError, match="must be the name or file of a recipe"):
        load_recipe(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("base: shape\n")
    with pytest.raises(ConfigError, match="did you mean 'shapes'"):
        load_recipe(str(tmp_path / "mine.yaml"))


def problem(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe("shapes", overrides)
    return "\n".join(error.value.problems)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optim.learnin_rate=1",
            "optim.learnin_rate (from the command line): no such field; did you mean 'learning_rate'",
        ),
        ("train.steps=many", 'train.steps (from the command line): must be a whole number (got "many")'),
        ("model.image.pooling=maxx", "did you mean 'max'?"),
        (
            "scaling.num_workers=3",
            "optim.global_batch_size: 128 is not divisible by scaling.num_workers 3; use 126 or 129",
        ),
        ("optim.warmup_steps=500", "optim.warmup_steps: 500 must be below train.steps 500"),
        ("model.image.image_size=60", "model.image.image_size: 60 is not a multiple of the patch size 8"),
        ("tracking.uri=./mlruns", "MLflow 3 keeps no runs in folders"),
        ("data.url=s3://key:pass@bucket/x", "carries credentials"),
        ("data.url=abfss://pairs:pass@account.dfs.core.windows.net/x", "carries credentials"),
        ("data.storage_options.secret=x", "credentials do not belong in a recipe"),
        ("data.storage_options={account_key: x}", "account_key: credentials do not belong"),
        (
            "data.storage_options={client_kwargs: {aws_secret_access_key: x}}",
            "client_kwargs.aws_secret_access_key: cred",
        ),
        ("data.storage_options={connection_string: x}", "connection_string: credentials do not belong"),
        ("data.storage_options={endpoint_url: 'http://me:pass@host'}", "endpoint_url: credentials do not belong"),
        ("data.storage_options.endpoint_url=9000", "data.storage_options: endpoint_url: must be text (got 9000)"),
        ("data.storage_options.anon=no", 'data.storage_options: anon: must be true or false (got "no")'),
        ("optim.betas=[0.9, 1.0]", "both must be at least 0 and below 1"),
        ("model.logit_scale_init=200", "less than or equal to 100"),
        ("name=a/b", "name (from the command line)"),
    ],
)
def test_mistakes_name_field_value_and_rule(override: str, message: str) -> None:
    assert message in problem(override)


def test_a_container_of_azure_is_no_user_name() -> None:
    url = "abfss://pairs@account.dfs.core.windows.net/cc12m"
    assert load_recipe("shapes", [f"data.url={url}"]).data.url == url


def test_options_that_are_no_secrets_are_taken() -> None:
    options = "{endpoint_url: 'http://host:9000', anon: true, client_kwargs: {region_name: x}, connection_timeout: 5}"
    assert load_recipe("shapes", [f"data.storage_options={options}"]).data.storage_options["anon"] is True


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:p@ss@host:5000/x?y=1", "https://host:5000/x?y=1"),
        ("postgresql://me@host/db", "postgresql://host/db"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
        ("sqlite:////runs/a@b/mlflow.db", "sqlite:////runs/a@b/mlflow.db"),
    ],
)
def test_urls_are_shown_without_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'shapes'"):
        load_recipe("shape")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe("nowhere.yaml")


def test_differences_are_those_that_change_the_result() -> None:
    recipe = load_recipe("shapes")
    moved = load_recipe("shapes", ["scaling.num_workers=4", "train.log_every=1", "tracking.enabled=false"])
    assert recipe.differences(moved) == []
    tolerant = load_recipe("shapes", ["data.max_invalid_fraction=0.5", "health.max_rollbacks=9"])
    assert recipe.differences(tolerant) == []  # a run that stopped at one of these limits can go on with a higher one
    other = load_recipe("shapes", ["optim.learning_rate=3e-3", "model.image.pooling=cls"])
    assert recipe.differences(other) == ["model.image.pooling: 'max' -> 'cls'", "optim.learning_rate: 0.002 -> 0.003"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scaling.num_workers=[2, 3]"], "128 is not divisible by scaling.num_workers 3; use 126 or 129"),
        (["scaling.num_workers=[3, 2]"], "must be the least and the most workers, as in [2, 8] (got [3, 2])"),
        (["scaling.num_workers=0"], "must be at least 1 (got 0)"),
        (["scaling.num_workers=[1, 2]", "scaling.max_failures=0"], "an elastic run goes on by starting again"),
        (["train.micro_batch_size=48"], "128 is not divisible by 2 workers times train.micro_batch_size 48; use 96 or"),
        (["train.micro_batch_size=100", "scaling.num_workers=1"], "train.micro_batch_size 100; use 100 or 200"),
        (
            ["train.micro_batch_size=64", "scaling.num_workers=[1, 4]"],
            "128 is 2 micro-batches of train.micro_batch_size 64, fewer than the 4 workers; use 256, or fewer workers",
        ),
        (["train.profile_steps=[5, 3]"], "must be a first and a last step"),
        (["eval.every=150", "checkpoint.every=100"], "eval.every: 150 is not a multiple of checkpoint.every 100"),
        (["eval.every=100", "eval.benchmark=null"], "name the benchmark to validate on"),
        (["eval.every=100", "eval.url=null"], "eval.url: with eval.every 100, say where the benchmark's data lie"),
        (["data.url=null"], "name one dataset with url, or several with sources"),
        (["data.sources=[{url: a}]"], "not both"),
        (["data.url=null", "data.sources=[{url: a}]", "data.key_column=k"], "key_column: with sources, give it to"),
        (["data.url=null", "data.sources=[{url: a, weight: 0}]"], "data.sources.0.weight"),
        (["data.crop_scale=[0.9, 0.1]"], "must be two positive numbers, the smaller first"),
        (["data.crop_scale=[0.5, 1.5]"], "a crop is at most the whole picture"),
        (["data.crop=left"], "data.crop"),
    ],
)
def test_wrong_data_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_recipe("shapes", overrides)


def test_sources_are_the_datasets_with_the_options_of_the_whole() -> None:
    options = ["data.url=null", "data.storage_options={region: x}"]
    sources = "data.sources=[{url: a, weight: 2}, {url: b, storage_options: {anon: true}}]"
    recipe = load_recipe("shapes", [*options, sources])
    first, second = recipe.data.datasets
    assert (first.url, first.weight, first.storage_options) == ("a", 2.0, {"region": "x"})
    assert second.storage_options == {"anon": True}
    assert recipe.data.urls == "2 x a + b"
    anchored = recipe.absolute().data.sources
    assert all(Path(source.url).is_absolute() for source in anchored)


def test_places_are_those_that_a_training_uses_and_absolute_ones_are_the_same(tmp_path: Path) -> None:
    sources = "data.sources=[{url: a, manifest: m.parquet}, {url: s3://b/c, storage_options: {endpoint_url: 'h:1'}}]"
    fields = ["data.url=null", sources, "eval.every=null", "tracking.uri=sqlite:///t.db", f"storage.url={tmp_path}"]
    recipe = load_recipe("shapes", fields)
    assert recipe.places() == {
        "storage.url": str(tmp_path),
        "data.sources.0.url": "a",
        "data.sources.0.manifest": "m.parquet",
        "data.sources.1.url": "s3://b/c",
        "data.sources.1.storage_options.endpoint_url": "https://h:1",
        "tracking.uri": "sqlite:///t.db",
    }
    absolute, here = recipe.absolute(), Path.cwd()
    assert [source.url for source in absolute.data.sources] == [f"{here}/a", "s3://b/c"]
    assert absolute.data.sources[0].manifest == f"{here}/m.parquet"
    assert absolute.data.sources[1] == recipe.data.sources[1]
    assert (absolute.tracking.uri, absolute.eval.url) == (f"sqlite:///{here}/t.db", f"{here}/data/shapes")
    assert absolute.absolute() == absolute
