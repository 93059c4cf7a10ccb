"""What a user may get wrong under `data`: one ConfigError each, with the place, the cause and a fix."""

import inspect
from pathlib import Path

import pytest
import yaml

from framework.data import DATASETS, make_dataset
from framework.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("synth_speach", {}, ["data: no dataset 'synth_speach'", "Did you mean 'synth_speech'?"]),
        ("copy", {"dealy": 3}, ["data.dealy: copy has no such option", "Did you mean 'delay'?"]),
        ("copy", {"delay": "3"}, ["data.delay: '3' is not a whole number", "The default is 100"]),
        ("copy", {"delay": True}, ["data.delay: True is not a whole number"]),
        ("copy", {"seed": None}, ["data.seed: None is not a whole number"]),
        (
            "table",
            {"targets": "load"},
            ["data.targets: 'load' is not a list such as [a,b] or null", "The default is null"],
        ),
        ("text", {"path": 3}, ["data.path: 3 is not a text or null"]),
        ("copy", {"delay": 0}, ["data.delay: 0 is too small", "Give 1 or more"]),
        ("copy", {"scored": "some"}, ["data.scored: 'some' is not known", "recall, all"]),
        ("adding", {"length": 10}, ["data.length: 10 is too small", "24"]),
        ("adding", {"batch_size": 0}, ["data.batch_size: 0 is too small"]),
        ("adding", {"seed": -1}, ["data.seed: -1 is too small"]),
        ("timit", {"root": ".", "phones": 40}, ["data.phones: 40 is not known", "61, 48, 39"]),
        ("timit", {"root": None, "n_mels": 1.5}, ["data.n_mels: 1.5 is not a whole number"]),
        ("text", {"vocab": 1}, ["data.vocab: 1 is too small"]),
        (
            "text",
            {"path": "/no/such/file.txt"},
            ["data.path: there is no file /no/such/file.txt", "data.path=/"],
        ),
        ("synth_speech", {"test_speakers": 0}, ["data.test_speakers: 0 is too small"]),
        ("synth_speech", {"deltas": -1}, ["data.deltas: -1 is too small"]),
    ],
)
def test_a_wrong_option_is_one_clear_error(name, options, words):
    with pytest.raises(ConfigError) as caught:
        make_dataset(name, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ConfigError, match=r"data\.cache_dir: cannot write to .*file/sub.*data\.cache_dir=/path"
    ):
        make_dataset("synth_speech", cache_dir=str(tmp_path / "file" / "sub"))


def test_every_dataset_has_its_config_with_the_same_defaults():
    assert {p.stem for p in CONF.glob("*.yaml")} == set(DATASETS)
    for name, make in DATASETS.items():
        text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        assert list(config)[:1] == ["name"] and config.pop("name") == name
        defaults = {key: p.default for key, p in inspect.signature(make).parameters.items()}
        assert config == defaults
