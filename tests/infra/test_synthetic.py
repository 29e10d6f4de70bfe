"""What a set is made from: looked for, checked and told before anything is drawn."""

from pathlib import Path

import pytest

from infra.gates import inputs_of
from infra.generate import generate
from infra.synthetic import prepare
from siamdiff import storage, transfer
from siamdiff.config import Config
from siamdiff.data.shards import finished_shards
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import AlreadyRunningError, UserError
from siamdiff.model.about import read_info
from siamdiff.run import lease
from tests.tiny_model import write_masks, write_model
from tests.two_folds import configure, plan_of, write_inputs


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def root(workplace):
    return str(workplace / "root")


@pytest.fixture
def model_of(workplace, root):
    """A copy of the model that tells something else of the set that it was trained on."""

    def copied(name, **told):
        uri, model = str(workplace / name), configure(root).generate.model
        transfer.upload_folder(uri, Path(model))
        storage.write_json(storage.join(uri, "siamdiff.json"), read_info(model) | told)
        return uri

    return copied


def test_copies_are_looked_for_among_the_images_that_the_model_was_trained_on(
    workplace, root, model_of, caplog
):
    other = write_masks(str(workplace / "other"), 3, splits=("train",))
    real = ShardSet.open(configure(root).generate.masks)
    of = {"masks": other.uri, "output": str(workplace / "of-other")}
    job = prepare(configure(root, **of))
    assert (job.training.uri, job.plan.training) == (real.uri, real.digest)
    gone = prepare(configure(root, **of, model=model_of("moved", data_uri=str(workplace / "gone"))))
    assert gone.plan.digest == job.plan.digest, "where the set lies is no matter until it is read"
    assert not caplog.records
    named = prepare(configure(root, **of | {"output": str(workplace / "of-named")}, training=other.uri))
    assert named.plan.training == other.digest
    unknown = model_of("imported", data_digest=None, data_uri=None)
    of["output"] = str(workplace / "of-unknown")
    assert prepare(configure(root, **of, model=unknown)).plan.training == other.digest
    assert "does not tell what it was trained on" in caplog.text


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"data_uri": "/gone", "data_digest": "0" * 64}, "is not at '/gone'"),
        ({"data_uri": None, "data_digest": "0" * 64}, "is not at ''"),
        ({"data_digest": "0" * 64}, "is another set by now"),
    ],
    ids=["gone", "nowhere", "replaced"],
)
def test_a_training_set_that_cannot_be_had_is_one_line_before_anything_is_drawn(
    workplace, root, model_of, told, why
):
    config = configure(root, model=model_of(f"lost-{why[-5:-1]}", **told))
    job = prepare(config)
    with pytest.raises(
        UserError, match=rf"{why}.*--generate\.training, or give --generate\.gates\.copies false"
    ):
        inputs_of(config, job)
    assert not finished_shards(job.output)


def test_a_set_without_training_images_and_a_missing_segmenter_are_refused(workplace, root, model_of):
    alone = write_masks(str(workplace / "tests-alone"), 3, splits=("test",))
    config = configure(root, model=model_of("unknown", data_digest=None), masks=alone.uri, split="test")
    with pytest.raises(UserError, match=r"no image in split 'train'.*--generate\.gates\.copies false"):
        inputs_of(config, prepare(config))
    for uri in (str(workplace / "none.safetensors"), str(workplace)):
        with pytest.raises(UserError, match=r"no segmenter at .*--generate\.gates\.segmenter"):
            prepare(configure(root, gates={"segmenter": uri}))


def test_missing_inputs_are_the_users_mistake(workplace, root, tmp_path):
    with pytest.raises(UserError, match=r"no model at .*jobs/train\.py"):
        generate(configure(root, model=str(tmp_path / "none")), demo=False)
    with pytest.raises(UserError, match="not a complete set"):
        generate(configure(root, masks=str(tmp_path / "none")), demo=False)
    with pytest.raises(UserError, match=r"no samples in split 'test' .*'val': 10"):
        generate(configure(root, split="test"), demo=False)


def test_without_a_name_the_run_that_finished_last_is_taken(root):
    unnamed = Config(root=root, data={"source": "polyps"}, generate={"limit": 2, "shard_size": 2}).resolve()
    with pytest.raises(UserError, match=f"no model at {unnamed.run_uri()}/model"):
        prepare(unnamed)
    storage.write_json(storage.join(root, "runs", "latest.json"), {"run": "a"})
    assert prepare(unnamed).model.uri == configure(root).generate.model
    swept = Config(root=root, preset="table5-7", data={"source": "polyps"}).resolve()
    with pytest.raises(
        UserError, match=r"of another method: train\.online_augmentation is True there, False here"
    ):
        prepare(swept)
    storage.delete(storage.join(root, "runs", "latest.json"))


def test_masks_of_another_size_than_the_models_are_refused(root, tmp_path):
    write_masks(str(tmp_path / "large"), 1, resolution=64)
    with pytest.raises(UserError, match=r"have 64 pixels a side, .* trained with 32"):
        generate(configure(root, masks=str(tmp_path / "large")), demo=False)


def test_an_adapter_takes_no_images(root, workplace):
    folder = workplace / "adapter"
    masks = ShardSet.open(configure(root).generate.masks)
    write_model(str(folder / "model"), folder / "base", masks, control="t2i-adapter")
    settings = {"model": str(folder / "model"), "fold_masks": ["real"]}
    assert prepare(configure(root, **settings)).model.info["control"] == "t2i-adapter"
    with pytest.raises(UserError, match=r"T2I-Adapter, which was trained on masks alone"):
        generate(configure(root, **settings, guide="mask+image"), demo=False)


def test_a_base_is_not_taken_for_a_trained_model(root, tmp_path):
    storage.write_json(str(tmp_path / "siamdiff.json"), {"hint_channels": [4, 4, 8, 16, 32]})
    with pytest.raises(UserError, match="not a trained model"):
        generate(configure(root, model=str(tmp_path)), demo=False)


def test_an_output_with_another_plan_is_refused_naming_the_fields(workplace, root):
    output = str(workplace / "taken")
    storage.write_json(
        storage.join(output, "plan.json"),
        plan_of(root, steps=9, guidance=2.0).model_dump(mode="json"),
    )
    with pytest.raises(UserError, match=r"guidance was 2\.0, is now 9\.0; steps was 9, is now 12"):
        generate(configure(root, output=output), demo=False)


def test_an_output_with_foreign_files_is_refused(workplace, root):
    output = str(workplace / "foreign")
    storage.write_bytes(storage.join(output, "notes.txt"), b"mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        generate(configure(root, output=output), demo=False)
    assert list(storage.list_files(output)) == ["notes.txt"]
    assert storage.read_json(storage.join(root, "synthetic", "status.json"))["exit_code"] == 2


def test_a_set_that_another_job_makes_is_left_to_it(workplace, root, caplog):
    output = str(workplace / "busy")
    status = storage.join(root, "synthetic", "status.json")
    storage.write_json(status, {"phase": "generating", "done": 3, "exit_code": None})
    with (
        lease(output, renew_seconds=0.1),
        pytest.raises(AlreadyRunningError, match="already running") as error,
    ):
        storage.write_json(
            storage.join(output, "plan.json"), plan_of(root, output=output).model_dump(mode="json")
        )
        generate(configure(root, output=output), demo=False)
    assert error.value.exit_code == 0
    assert storage.read_json(status)["phase"] == "generating", "the other's state is left alone"
    assert finished_shards(output) == set()
