"""Transfer learning: features, probes, draws, fine-tuning, data sets, statistics, errors."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from benchmarks.transfer import (
    MEAN,
    LinearProbe,
    NearestNeighbours,
    Transfer,
    fine_tuning,
    probes,
)
from benchmarks.transfer import table as table_module
from benchmarks.transfer.cells import fine_tuning_cell
from benchmarks.transfer.data import check_data, open_data
from benchmarks.transfer.probes import draw_name, draw_shots, linear_probe, nearest_neighbours
from benchmarks.transfer.students import students_of
from benchmarks.transfer.table import build, in_words, summarise, summarise_seeds
from benchmarks.transfer.untrained import initialise as initialise_student
from manifold.errors import UserError
from manifold.models import create_model
from manifold.ranks import ALONE
from manifold.seeds import derive, reseed
from manifold.settings import Model, resolve
from manifold.settings.sources import job_hash
from manifold.training.cohort import Member
from manifold.training.data import evaluation_transform, load_splits
from manifold.training.runs import build_distiller, student_setting
from manifold.training.train import train
from manifold.training.untrained import initialise

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
METHODS = ["soft_kd", "manifold"]
STUDY = {"pair": "untrained-teacher", "epochs": 1, "methods": METHODS}


def experiment_in(folder, **transfer):
    return resolve({"scale": "smoke", "results": str(folder), "transfer": {**STUDY, **transfer}})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Students of one epoch, whose teacher knows nothing, carried through the whole study."""
    made = experiment_in(tmp_path_factory.mktemp("study"))
    initialise(made, STUDY["pair"])
    for seed in made.seeds:
        initialise_student(made, seed)
        train(*student_setting(made, STUDY["pair"], "A", 1, METHODS, seed))
        for name in made.transfer.data:
            probes.run(made, name, seed)
            fine_tuning.run(made, name, seed)
    made.studies["transfer"].write()
    return made.studies["transfer"]


def dump_of(study, name, method, seed):
    return load_file(study.directory(name, method, seed) / "features.safetensors")


def record_of(study, name, method, seed):
    return json.loads(
        (study.directory(name, method, seed) / "probes.json").read_text(encoding="utf-8")
    )


# ---- features --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["untrained", "manifold"])
def test_features_are_what_timm_hands_to_the_classifier(study, method):
    (student,) = (s for s in students_of(study, 0) if s.method == method)
    data = study.data("faces")
    test = load_splits(data).test.transformed(evaluation_transform(data))
    images = torch.stack([test[position, None][0] for position in range(len(test))])
    network = create_model(student.model, (1, 8, 8), student.classes)
    network.load_state_dict(load_tensors(student.weights))
    network.eval()
    seen = []
    network.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    dump = dump_of(study, "faces", method, 0)
    assert np.array_equal(dump["test"], seen[0].numpy())
    assert dump["test_labels"].tolist() == [0] * 50 + [1] * 50
    assert dump["train"].dtype == np.float32 and dump["train"].shape == (70, 24)


def test_a_distilled_student_hands_over_what_timm_pools():
    model = Model(
        name="deit_tiny_distilled_patch16_224", arguments={"patch_size": 4, "embed_dim": 24}
    )
    model.arguments.update(depth=2, num_heads=2)
    network = create_model(model, (1, 8, 8), 3).eval()
    images = torch.rand(5, 1, 8, 8)
    tokens = network.forward_features(images)
    (features,), _ = probes.pooled_features([network], [(images, torch.zeros(5))], "some")
    expected = ((tokens[:, 0] + tokens[:, 1]) / 2).detach().numpy()
    assert np.array_equal(features, expected)


# ---- classifiers -----------------------------------------------------------------------------


def examples(classes=3, count=90, size=5, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = generator.standard_normal((classes, size))
    return centres[labels] + generator.standard_normal((count, size)), labels


def test_the_linear_probe_is_at_the_optimum_of_its_objective():
    """C·Σ CE + ‖W‖²/2, the offsets free, minimised here with a gradient by hand."""
    features, labels = examples()
    c, (count, size), classes = 0.7, features.shape, 3
    hot = np.eye(classes)[labels]

    def objective(flat):
        weights, offsets = flat[:-classes].reshape(classes, size), flat[-classes:]
        logits = features @ weights.T + offsets
        total = logsumexp(logits, axis=1, keepdims=True)
        loss = c * float((total[:, 0] - logits[np.arange(count), labels]).sum())
        error = c * (np.exp(logits - total) - hot)
        gradient = np.concatenate([(error.T @ features + weights).ravel(), error.sum(0)])
        return loss + (weights**2).sum() / 2, gradient

    settings = LinearProbe(regularisation=[c], iterations=1000, tolerance=1e-8)
    found = minimize(objective, np.zeros(classes * (size + 1)), jac=True, tol=1e-12)
    model = linear_probe(settings)(c, (features, labels))
    ours = np.concatenate([model.coef_.ravel(), model.intercept_ - model.intercept_.mean()])
    theirs = found.x.copy()
    theirs[-classes:] -= theirs[-classes:].mean()
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_the_linear_probe_is_scikit_learns_on_the_dumped_features(study):
    settings = study.settings.linear_probe
    for name in study.settings.data:
        for method in ("untrained", *METHODS):
            dump = dump_of(study, name, method, 1)
            both = [
                np.concatenate([dump[f"train{what}"], dump[f"validation{what}"]])
                for what in ("", "_labels")
            ]
            results = record_of(study, name, method, 1)["results"]
            whole = results[0]
            assert (whole["protocol"], whole["shots"]) == ("linear-probe", "all")
            model = LogisticRegression(
                C=whole["fits"][0]["chosen"], tol=settings.tolerance, max_iter=settings.iterations
            ).fit(both[0].astype(np.float64), both[1])
            top1 = 100 * model.score(dump["test"].astype(np.float64), dump["test_labels"])
            assert whole["top1"] == pytest.approx(top1)
            few = results[2]
            assert few["shots"] == 5 and len(few["fits"]) == 2
            taken = dump[draw_name(5, 1)]
            model = LogisticRegression(
                C=few["fits"][1]["chosen"], tol=settings.tolerance, max_iter=settings.iterations
            ).fit(dump["train"][taken].astype(np.float64), dump["train_labels"][taken])
            top1 = 100 * model.score(dump["test"].astype(np.float64), dump["test_labels"])
            assert few["fits"][1]["top1"] == pytest.approx(top1)
            assert few["top1"] == pytest.approx(np.mean([fit["top1"] for fit in few["fits"]]))


def test_few_shots_of_which_nothing_is_chosen_see_no_label_but_their_own(study):
    dump = dump_of(study, "textures", "manifold", 0)
    blind = dump | {"validation_labels": np.zeros_like(dump["validation_labels"])}
    results = {
        name: {
            (result["protocol"], result["shots"]): result
            for result in probes.probe(study, "textures", each)
        }
        for name, each in (("seen", dump), ("blind", blind))
    }
    fixed = [key for key in results["seen"] if key[0].endswith("-fixed")]
    assert {protocol for protocol, _ in fixed} == {"linear-probe-fixed", "k-nn-fixed"}
    assert {shots for _, shots in fixed} == set(study.settings.data["textures"].shots)
    for key in fixed:
        assert results["seen"][key] == results["blind"][key]
        assert {fit["chosen"] for fit in results["seen"][key]["fits"]} == {1}
    taken = dump[draw_name(5, 0)]
    settings = study.settings.linear_probe
    model = LogisticRegression(C=1.0, tol=settings.tolerance, max_iter=settings.iterations)
    model.fit(dump["train"][taken].astype(np.float64), dump["train_labels"][taken])
    top1 = 100 * model.score(dump["test"].astype(np.float64), dump["test_labels"])
    found = results["seen"]["linear-probe-fixed", 5]["fits"][0]["top1"]
    assert found == pytest.approx(top1)


@pytest.mark.parametrize("count", [1, 2, 7, 90])
def test_neighbours_vote_with_the_exponential_of_their_cosine(count):
    (features, labels), (others, _) = examples(), examples(count=40, seed=1)
    temperature = 0.3
    settings = NearestNeighbours(neighbours=[count], temperature=temperature)
    model = nearest_neighbours(settings)(count, (features, labels))
    expected = []
    for query in others:
        cosine = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
        near = np.argsort(-cosine)[:count]
        votes = [np.exp(cosine[near] / temperature)[labels[near] == c].sum() for c in range(3)]
        expected.append(int(np.argmax(votes)))
    assert model.predict(others).tolist() == expected


def test_of_equals_the_smallest_is_chosen():
    features, labels = np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    fit = nearest_neighbours(NearestNeighbours(neighbours=[2, 1], temperature=0.1))
    assert probes.choose(fit, [2, 1], (features, labels), (features, labels)) == 1


def test_no_choice_sees_the_test_split(study):
    dump = dump_of(study, "textures", "manifold", 0)
    shuffled = dump | {"test_labels": np.random.default_rng(0).permutation(dump["test_labels"])}
    one, other = (probes.probe(study, "textures", d) for d in (dump, shuffled))
    chosen = [
        [[fit["chosen"] for fit in result["fits"]] for result in results]
        for results in (one, other)
    ]
    assert chosen[0] == chosen[1]
    assert [result["top1"] for result in one] != [result["top1"] for result in other]


def test_the_choice_is_the_best_of_the_validation_split(study):
    dump = dump_of(study, "textures", "soft_kd", 0)
    train, validation = (
        (dump[split].astype(np.float64), dump[f"{split}_labels"])
        for split in ("train", "validation")
    )
    scores = {
        c: LogisticRegression(C=c, max_iter=200).fit(*train).score(*validation)
        for c in study.settings.linear_probe.regularisation
    }
    (fit,) = record_of(study, "textures", "soft_kd", 0)["results"][0]["fits"]
    assert scores[fit["chosen"]] == max(scores.values())


# ---- few shots -------------------------------------------------------------------------------


def test_a_draw_has_as_many_of_each_class_and_follows_from_the_seed():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [12, 30, 50]))
    for shots in (1, 5, 10):
        chosen = draw_shots(labels, shots, 0, "some", 0)
        assert np.bincount(labels[chosen]).tolist() == [shots] * 3
        assert len(set(chosen)) == len(chosen)
        assert np.array_equal(chosen, draw_shots(labels, shots, 0, "some", 0))
    assert set(draw_shots(labels, 1, 0, "some", 0)) < set(draw_shots(labels, 5, 0, "some", 0))
    others = [("some", 1, 0), ("other", 0, 0), ("some", 0, 1)]
    draws = [draw_shots(labels, 5, seed, name, draw).tolist() for name, draw, seed in others]
    draws.append(draw_shots(labels, 5, 0, "some", 0).tolist())
    assert len({tuple(draw) for draw in draws}) == 4


def test_every_method_of_a_seed_gets_the_same_draws(study):
    for seed in study.experiment.seeds:
        first, *others = (dump_of(study, "faces", m, seed) for m in ("untrained", *METHODS))
        for other in others:
            for name in (draw_name(shots, draw) for shots in (1, 5) for draw in (0, 1)):
                assert np.array_equal(first[name], other[name])
            assert np.array_equal(first["train_labels"], other["train_labels"])
            assert not np.array_equal(first["train"], other["train"])
    one, other = (dump_of(study, "faces", "manifold", seed) for seed in study.experiment.seeds)
    assert not np.array_equal(one[draw_name(5, 0)], other[draw_name(5, 0)])


# ---- fine-tuning and the untrained student -----------------------------------------------------


def test_fine_tuning_starts_from_the_student_with_a_new_classifier(study):
    students = students_of(study, 0)
    company = fine_tuning.setting(study, "textures", 0, students, (ALONE, CPU))
    heads = []
    for student in students:
        cell = fine_tuning_cell(study, "textures", student, 0)
        network = build_distiller(company, cell, None, 3).trainable_module
        given, own = load_tensors(student.weights), network.state_dict()
        assert own.keys() == given.keys()
        for name, value in own.items():
            if name.startswith("head"):
                assert len(value) == 3
            else:
                assert torch.equal(value, given[name])
        heads.append(own["head.weight"])
        tuned = load_tensors(cell.directory / "student.safetensors")
        moved = [name for name in tuned if not torch.equal(tuned[name], own[name])]
        assert moved == list(tuned)
    assert all(torch.equal(head, heads[0]) for head in heads)


def test_fine_tuning_uses_every_training_image_and_the_test_split(study):
    directory = study.directory("faces", "manifold", 1) / "fine-tuning"
    record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    assert record["splits"] == {"train": 100, "validation": 0, "test": 100}
    assert record["result"]["split"] == "test" and record["result"]["images"] == 100
    assert record["recipe_name"] == "fine-tuning" and record["method"] == "manifold"
    assert record["cohort"] == ["untrained", *METHODS]


@pytest.mark.parametrize(
    ("recipe", "optimizer", "rate", "decay"),
    [("fine-tuning", "SGD", 0.01, 1e-4), ("fine-tuning-inaturalist", "AdamW", 7.5e-5, 0.05)],
)
def test_the_papers_students_are_fine_tuned_as_deit_was(study, recipe, optimizer, rate, decay):
    (student, *_) = students_of(study, 0)
    company = fine_tuning.setting(study, "faces", 0, [student], (ALONE, CPU))
    cell = fine_tuning_cell(study, "faces", student, 0)
    made = resolve({"scale": "imagenet"}).recipes[recipe]
    distiller = build_distiller(company, cell, None, 2)
    member = Member("some", distiller, made, seed=0, epochs=1000, steps_per_epoch=10)
    assert type(member.optimizer).__name__ == optimizer and made.batch_size == 768
    assert {group["weight_decay"] for group in member.optimizer.param_groups} == {0.0, decay}
    assert member.optimizer.param_groups[0]["initial_lr"] == pytest.approx(rate)


def test_on_the_validation_split_fine_tuning_leaves_it_out():
    made = resolve({"scale": "mini-transfer-choice"})
    assert made.studies["transfer"].fine_tuning_data("digits-sgd-1e-2").validation == 300
    mini = resolve({"scale": "mini"}).studies["transfer"]
    assert mini.fine_tuning_data("digits").validation == 0


def test_the_untrained_student_is_the_one_that_the_cells_began_with(study):
    for seed in study.experiment.seeds:
        setting, cells = student_setting(study.experiment, STUDY["pair"], "A", 1, ["soft_kd"], seed)
        reseed(derive(seed, "initialisation"))
        expected = create_model(cells[0].student, setting.image_shape, 10).state_dict()
        written = load_tensors(study.untrained_student(seed))
        assert all(torch.equal(written[name], value) for name, value in expected.items())


# ---- survival --------------------------------------------------------------------------------


def test_what_is_complete_stays_and_what_is_damaged_is_made_again(study, capsys):
    directory = study.directory("faces", "soft_kd", 0)
    before = {path: path.read_bytes() for path in directory.glob("*.*")}
    features = directory / "features.safetensors"
    features.write_bytes(features.read_bytes()[:-4] + b"abcd")
    probes.run(study.experiment, "faces", 0)
    said = capsys.readouterr().err
    assert str(study.directory("faces", "manifold", 0)) + " is complete" in said
    assert str(directory) + " is complete" not in said
    assert features.read_bytes() == before[features]
    changed = study.experiment.replaced(transfer=study.settings.replaced(draws=1))
    with pytest.raises(UserError, match=r"probes\.json is of another configuration"):
        build(changed.studies["transfer"])


def test_probes_of_other_code_are_kept_or_made_anew_as_is_asked(study, capsys):
    path = study.directory("faces", "soft_kd", 0) / "probes.json"
    record = record_of(study, "faces", "soft_kd", 0)
    assert record["source_hash"] == job_hash("benchmarks.transfer.probes")
    path.write_text(json.dumps(record | {"source_hash": "other", "results": []}), encoding="utf-8")
    probes.run(study.experiment, "faces", 0)
    said = capsys.readouterr().err
    assert f"{path.parent} was made by other code than now stands" in said
    assert f"{path.parent} is complete" in said
    assert record_of(study, "faces", "soft_kd", 0)["source_hash"] == "other"
    again = study.experiment.replaced(stale="retrain")
    probes.run(again, "faces", 0)
    said = capsys.readouterr().err
    assert f"{path.parent} is complete" not in said
    assert f"{study.directory('faces', 'manifold', 0)} is complete" in said
    made = record_of(study, "faces", "soft_kd", 0)
    assert (made["source_hash"], made["results"]) == (record["source_hash"], record["results"])


def test_the_table_tells_of_probes_that_other_code_made(study):
    path = study.directory("faces", "soft_kd", 0) / "probes.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(before) | {"source_hash": "other"}), encoding="utf-8")
    own = Transfer(study.experiment, study.settings)
    own.build()
    path.write_text(before, encoding="utf-8")
    assert "1 of the 24 runs" in own.sources.words()
    assert "probes of soft_kd on faces (seed 0)" in own.sources.words()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), ["student of 'manifold' is missing"]),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), ["damaged"]),
        (lambda path: path.with_name("run.json").unlink(), ["run.json", "has not been run"]),
    ],
)
def test_a_student_that_is_gone_or_damaged_is_named(study, spoil, words):
    directory = study.experiment.cell_directory(STUDY["pair"], "A", 1, "manifold", 1)
    kept = {path: path.read_bytes() for path in directory.iterdir()}
    try:
        spoil(directory / "student.safetensors")
        for command in (probes.run, fine_tuning.run):
            with pytest.raises(UserError) as error:
                command(study.experiment, "faces", 1)
            for word in [str(directory), *words]:
                assert word in str(error.value)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_weights_of_another_network_are_refused(study):
    (student,) = (s for s in students_of(study, 0) if s.method == "soft_kd")
    student.classes = 9
    with pytest.raises(UserError, match=r"the student of 'soft_kd' has 10 classes"):
        probes.network_of(student, (1, 8, 8))


# ---- data sets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "validation", "sizes", "classes"),
    [
        ("mnist_5k", 500, (3500, 500, 1000), 10),
        ("textures", 90, (294, 90, 384), 3),
        ("faces", 30, (70, 30, 100), 2),
    ],
)
def test_the_images_that_packages_carry_are_split_class_by_class(
    study, name, validation, sizes, classes
):
    data = study.experiment.data.replaced(dataset=name, validation=validation)
    splits = load_splits(data)
    seen = []
    for split, size in zip((splits.train, splits.validation, splits.test), sizes, strict=True):
        assert len(split) == size
        counts = np.bincount(split.labels[split.indices], minlength=classes)
        assert len(splits.classes) == len(counts) == classes and len(set(counts)) == 1
        seen += [np.asarray(split.load(int(index))).tobytes() for index in split.indices[:40]]
    assert len(set(seen)) == len(seen)


def jpegs(folder, names, size=(20, 30), seed=0):
    generator = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def fake_pets(root):
    names = [f"{breed}_{number}" for breed in ("basset", "Abyssinian") for number in range(3)]
    jpegs(root / "oxford-iiit-pet/images", [f"{name}.jpg" for name in names])
    annotations = root / "oxford-iiit-pet/annotations"
    annotations.mkdir(parents=True)
    lines = [f"{name} {1 + (number // 3)} 1 1" for number, name in enumerate(names)]
    (annotations / "trainval.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (annotations / "test.txt").write_text("\n".join(lines[1::3]) + "\n", encoding="utf-8")


def fake_cars(root):
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.array(["Audi", "BMW"], dtype=object)
    scipy.io.savemat(base / "devkit/cars_meta.mat", {"class_names": names})
    for folder, path, count in (
        ("cars_train", base / "devkit/cars_train_annos.mat", 6),
        ("cars_test", base / "cars_test_annos_withlabels.mat", 2),
    ):
        jpegs(base / folder, [f"{number}.jpg" for number in range(count)])
        kind = [("class", object), ("fname", object)]
        rows = [(1 + number * 2 // count, f"{number}.jpg") for number in range(count)]
        scipy.io.savemat(path, {"annotations": np.array(rows, dtype=kind)})


def fake_inaturalist(root):
    for version, count in (("2021_train_mini", 3), ("2021_valid", 1)):
        for number, species in enumerate(("a_b", "c_d")):
            category = f"{number:05d}_K_P_C_O_F_{species}"
            jpegs(root / version / category, [f"{i}.jpg" for i in range(count)])


@pytest.mark.parametrize(
    ("name", "fake", "classes"),
    [
        ("oxford_pets", fake_pets, ["Basset", "Abyssinian"]),
        ("stanford_cars", fake_cars, ["Audi", "BMW"]),
        ("inaturalist", fake_inaturalist, ["00000_K_P_C_O_F_a_b", "00001_K_P_C_O_F_c_d"]),
    ],
)
def test_the_layouts_of_torchvision_are_read(study, tmp_path, name, fake, classes):
    data = study.experiment.data.replaced(dataset=name, folder=str(tmp_path), validation=2)
    with pytest.raises(UserError, match=rf"{tmp_path}.*expected"):
        load_splits(data)
    fake(tmp_path)
    splits = load_splits(data)
    assert splits.classes == classes
    assert np.bincount(splits.train.labels[splits.train.indices]).tolist() == [2, 2]
    assert np.bincount(splits.validation.labels[splits.validation.indices]).tolist() == [1, 1]
    assert splits.test.labels.tolist() == [0, 1]
    assert splits.test.load(1).size == (30, 20) and splits.test.load(1).mode == "L"


@pytest.mark.parametrize("name", ["flowers102", "oxford_pets", "stanford_cars", "inaturalist"])
def test_a_missing_folder_says_what_is_expected(study, tmp_path, name):
    data = study.experiment.data.replaced(dataset=name, folder=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere: no such folder; expected .*jpg|cars_train"):
        load_splits(data)
    assert not list(tmp_path.iterdir())


def own_folder(tmp_path, train=8, test=4):
    for split, count in (("train", train), ("val", test)):
        for number, name in enumerate(("cat", "dog", "owl")):
            size = (16 + 9 * number, 40 - 7 * number)
            jpegs(tmp_path / split / name, [f"{i}.jpg" for i in range(count)], size, number)
    return {"dataset": "folder", "folder": str(tmp_path), "validation": 6, "verify": True}


def mine(study, entry, **changes):
    transfer = {**STUDY, "data": {"mine": entry, "textures": None, "faces": None}, **changes}
    words = {"scale": "smoke", "results": study.experiment.results, "transfer": transfer}
    return resolve(words)


def checked(made, name):
    own = made.studies["transfer"]
    return check_data(own, name, open_data(name, own.data(name)))


def test_a_folder_of_ones_own_is_carried_through(study, tmp_path):
    entry = {**own_folder(tmp_path / "mine", train=40), "protocols": ["linear-probe", "k-nn"]}
    made = mine(study, entry)
    assert list(made.transfer.data) == ["mine"] and made.name == "smoke"
    found = checked(made, "mine")
    assert found["splits"] == {"train": 114, "validation": 6, "test": 12}
    for seed in made.seeds:
        probes.run(made, "mine", seed)
    rows = build(made.studies["transfer"]).csv[""]
    assert set(rows["data"]) == {"mine"}
    assert rows["title"].iloc[0] == "Untrained" and len(rows) == 3 * 10


def break_image(folder):
    (folder / "train/dog/3.jpg").write_bytes(b"nothing")


def remove_class(folder):
    for path in (folder / "val/owl").iterdir():
        path.unlink()
    (folder / "val/owl").rmdir()


@pytest.mark.parametrize(
    ("spoil", "entry", "changes", "words"),
    [
        (break_image, {}, {}, ["transfer.data.mine", "train/dog/3.jpg", "replace it"]),
        (remove_class, {}, {}, ["transfer.data.mine", "owl"]),
        (None, {"folder": "/nowhere"}, {}, ["transfer.data.mine", "/nowhere/train", "CLASS"]),
        (None, {"shots": [1, 7]}, {}, ["transfer.data.mine", "7 training images", "'cat' has 6"]),
        (
            None,
            {},
            {"nearest_neighbours": {"neighbours": [1, 19]}},
            ["k = 19", "18 training images", "transfer.data.mine"],
        ),
        (
            None,
            {"shots": [1]},
            {"nearest_neighbours": {"neighbours": [4]}},
            ["k = 4", "3 images", "1 shot(s)"],
        ),
        (None, {"validation": 24}, {}, ["transfer.data.mine", "leaves nothing"]),
        (None, {}, {}, ["recipes.fine-tuning.batch_size 32", "24 images"]),
    ],
)
def test_data_that_cannot_be_used_ends_before_any_compute(
    study, tmp_path, spoil, entry, changes, words
):
    given = own_folder(tmp_path / "mine")
    if spoil:
        spoil(tmp_path / "mine")
    made = mine(study, {**given, **entry}, **changes)
    made = made.replaced(results=str(tmp_path / "results"))
    with pytest.raises(UserError) as error:
        made.studies["transfer"].preflight()
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "results").exists()


def test_a_student_of_values_that_are_not_finite_is_refused(study, tmp_path):
    (student,) = (s for s in students_of(study, 0) if s.method == "soft_kd")
    state = load_tensors(student.weights)
    state["norm.weight"][0] = float("nan")
    student.weights = tmp_path / "student.safetensors"
    save_file(state, student.weights)
    with pytest.raises(UserError, match=r"not finite in norm\.weight"):
        probes.network_of(student, (1, 8, 8))


# ---- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pair": "deit"}, ["transfer.pair", "'deit'", "deit-cait"]),
        ({"recipe": "Z"}, ["transfer.recipe", "'Z'"]),
        ({"methods": ["soft_kd", "manifld"]}, ["transfer.methods", "'manifld'", "'manifold'"]),
        ({"methods": ["none", "manifold"]}, ["transfer.baseline", "'soft_kd'", "add it"]),
        ({"methods": ["soft_kd", "soft_kd"]}, ["transfer.methods", "once"]),
        ({"epochs": 0}, ["transfer.epochs", "at least 1"]),
        ({"draws": 0}, ["transfer.draws", "at least 1"]),
        ({"linear_probe": {"regularisation": []}}, ["linear_probe.regularisation", "choose", "[]"]),
        ({"linear_probe": {"regularisation": [0.0]}}, ["linear_probe.regularisation", "positive"]),
        ({"linear_probe": {"iterations": 0}}, ["linear_probe.iterations", "at least 1"]),
        ({"nearest_neighbours": {"neighbours": []}}, ["neighbours", "choose", "[]"]),
        ({"nearest_neighbours": {"temperature": 0}}, ["temperature", "positive"]),
        ({"data": {"textures": None, "faces": None}}, ["transfer.data", "at least one"]),
        ({"data": {"faces": {"dataset": "face"}}}, ["transfer.data.faces.dataset", "'face'"]),
        ({"data": {"faces": {"shot": [1]}}}, ["transfer.data.faces", "'shot'", "'shots'"]),
        ({"defaults": {"shot": [1]}}, ["transfer.data.textures", "'shot'", "'shots'"]),
        ({"data": {"more": {"dataset": "digits"}}}, ["transfer.data.more lacks validation"]),
        ({"data": {"faces": {"recipe": "Z"}}}, ["transfer.data.faces.recipe", "'Z'"]),
        ({"data": {"faces": {"epochs": 0}}}, ["transfer.data.faces.epochs", "at least 1"]),
        ({"data": {"faces": {"shots": [0]}}}, ["transfer.data.faces.shots", "at least 1"]),
        ({"data": {"faces": {"shots": [1, 1]}}}, ["transfer.data.faces.shots", "more than once"]),
        ({"data": {"faces": {"protocols": []}}}, ["transfer.data.faces.protocols", "at least one"]),
        ({"data": {"faces": {"protocols": ["knn"]}}}, ["protocols", "'k-nn'", "'knn'"]),
        ({"data": {"faces": {"validation": 0}}}, ["transfer.data.faces.validation", "C and k"]),
        ({"data": {"mean": {"dataset": "digits", "validation": 9}}}, ["transfer.data.mean"]),
        ({"data": {"../up": {"dataset": "digits", "validation": 9}}}, ["'../up'", "folder"]),
    ],
)
def test_a_bad_study_names_the_culprit(changes, words):
    with pytest.raises(UserError) as error:
        resolve({"scale": "smoke", "transfer": changes})
    for word in words:
        assert word in str(error.value)


def test_probes_are_not_measured_on_the_split_of_their_choices():
    made = resolve({"scale": "smoke", "evaluation_split": "validation"})
    with pytest.raises(UserError, match=r"transfer\.data\.textures\.protocols.*fine-tuning"):
        checked(made, "textures")


def test_the_study_trains_what_table_1_has_not_and_nothing_else():
    def cohorts(**transfer):
        return resolve({"scale": "smoke", "transfer": transfer}).trainings()

    without = resolve({"scale": "smoke", "transfer": None}).trainings()
    assert cohorts() == without
    assert cohorts(methods=None) == without
    other = {"methods": ["none", "sp"], "table1": {"baseline": "none"}}
    made = resolve({"scale": "smoke", "transfer": {"methods": None}, **other})
    assert made.studies["transfer"].methods == ["soft_kd", "none", "sp"]
    more = cohorts(epochs=3, methods=["soft_kd", "sp"])
    assert more.pop(("deit-cait", "A", 3)) == [["soft_kd", "sp"]]
    assert more == without


def test_students_see_every_data_set_as_they_saw_their_own():
    made = resolve({"scale": "folder"})
    for name, entry in made.transfer.data.items():
        data = made.studies["transfer"].data(name)
        for key in ("image_size", "channels", "mean", "std"):
            assert getattr(data, key) == getattr(made.data, key)
        assert (data.dataset, data.validation) == (entry.dataset, entry.validation)


# ---- the table -------------------------------------------------------------------------------


def made_up(study):
    """Top-1 in two data sets; manifold − soft KD is 1, 3 in one and 2, 2 in the other."""
    numbers = {
        "textures": {"untrained": (40, 42), "soft_kd": (70, 71), "manifold": (71, 74)},
        "faces": {"untrained": (50, 54), "soft_kd": (80, 83), "manifold": (82, 85)},
    }
    return pd.DataFrame(
        [
            {"data": name, "protocol": "k-nn", "shots": "all", "method": method, "seed": seed}
            | {"top1": float(top1)}
            for name, methods in numbers.items()
            for method, values in methods.items()
            for seed, top1 in enumerate(values)
        ]
    )


def test_gains_are_paired_by_seed_within_data_set_and_protocol(study):
    seeds = summarise_seeds(made_up(study), study)
    rows = summarise(seeds, study).set_index(["data", "method"])
    assert list(dict.fromkeys(rows.index.get_level_values(0))) == [MEAN, "textures", "faces"]
    gain = rows.loc[("textures", "manifold")]
    assert gain["gain_mean"] == pytest.approx(2)
    assert gain["gain_high"] - 2 == pytest.approx(12.706204736)  # t(0.975, 1)·√2/√2
    assert gain["p_holm"] == pytest.approx(0.295167235)  # t = 2, one degree of freedom
    assert rows.loc[("faces", "manifold"), ["gain_low", "gain_high"]].tolist() == [2, 2]
    assert rows.loc[(MEAN, "manifold"), "gain_mean"] == pytest.approx(2)
    assert rows.loc[(MEAN, "soft_kd"), "top1_mean"] == pytest.approx(76)
    assert rows.loc[("faces", "untrained"), "gain_mean"] == pytest.approx(-29.5)
    assert np.isnan(rows.loc[("faces", "untrained"), "p_holm"])
    assert np.isnan(rows.loc[("faces", "soft_kd"), "gain_mean"])
    words = in_words(rows.reset_index(), "Soft KD", 0.95)
    assert words[2].startswith("faces; k-NN, all images. ahead of Soft KD: Manifold, decoupled. ")
    assert ". behind Soft KD: Untrained. Told from Soft KD after Holm's correction" in words[2]
    assert words[2].endswith("over the one comparison, at p < 0.05: Manifold, decoupled")
    assert words[1].endswith("over the one comparison, at p < 0.05: none")
    assert words[1].startswith("textures; k-NN, all images. behind Soft KD: Untrained. not told")


def test_one_data_set_has_words_that_the_docs_can_show(study):
    rows = pd.read_csv(study.experiment.directory / "transfer.csv", dtype={"shots": str})
    seeds = pd.read_csv(study.experiment.directory / "transfer_seeds.csv", dtype={"shots": str})
    of_one = [own[own["data"] == "faces"] for own in (rows, seeds)]
    sizes = {"faces": {"classes": 2, "train": 70, "validation": 30, "test": 50}}
    found = table_module.Measured(*of_one, sizes, "a caption")
    text = [
        part
        for part in table_module._parts_of_text(found, study, "Soft KD")
        if isinstance(part, str)
    ]
    assert text.count("## In words") == 1 and "## In words by data set" not in text


def test_the_seeds_of_the_table_are_the_studys_own(study):
    """And not those of all studies: what was probed is shown, or said to be missing."""
    other = study.experiment.replaced(transfer=study.settings.replaced(seeds=[1, 7])).studies[
        "transfer"
    ]
    with pytest.raises(UserError, match="seed-7"):
        table_module.measure(other)


def test_only_a_choice_among_several_falls_on_an_end_of_its_grid():
    fits = [
        {"chosen": 1, "grid": [1, 1], "top1": 0.0},  # one image: k is 1
        {"chosen": 5, "grid": [1, 5], "top1": 0.0},  # five images: 20 neighbours are not offered
        {"chosen": 1, "grid": [1, 20], "top1": 0.0},
        {"chosen": 5, "grid": [1, 20], "top1": 0.0},
    ]
    result = {"protocol": "k-nn", "shots": 5, "top1": 0.0, "fits": fits}
    record = {"data": "faces", "method": "none", "seed": 0, "results": [result]}
    rows = table_module._probe_rows(record | {"environment": {"git_commit": ""}, "fingerprint": ""})
    words = table_module._words_on_edges(pd.DataFrame(rows))
    assert "of 3 choices 1 fell on the smallest number of their grid, and 1 on the largest" in words


def test_there_is_no_mean_where_a_data_set_lacks_a_protocol(study):
    measured = made_up(study)
    seeds = summarise_seeds(measured[measured["data"] == "faces"], study)
    assert MEAN not in set(seeds["data"])


def test_the_table_is_written_with_every_row(study):
    rows = pd.read_csv(study.experiment.directory / "transfer.csv")
    kinds = rows.groupby(["data", "protocol", "shots"])["method"].agg(list)
    assert len(kinds) == 3 * (3 + 3 + 1 + 2 + 2)  # few shots once more, nothing chosen
    assert all(methods == ["untrained", *METHODS] for methods in kinds)
    assert (rows["n"] == 2).all() and rows["top1_mean"].between(0, 100).all()
    seeds = pd.read_csv(study.experiment.directory / "transfer_seeds.csv")
    top1 = seeds.set_index(["data", "protocol", "shots", "method", "seed"])["top1"]
    directory = study.directory("faces", "manifold", 1) / "fine-tuning"
    tuned = json.loads((directory / "run.json").read_text(encoding="utf-8"))["result"]["top1"]
    assert top1["faces", "fine-tuning", "all", "manifold", 1] == pytest.approx(tuned)
    text = (study.experiment.directory / "transfer.md").read_text(encoding="utf-8")
    for part in (
        "Untrained",
        "### Linear probe, C not chosen",
        "The mean weighs every data set alike",
        "fell on the smallest number of their grid, and",
        "## In words",
        "none of its transfer results",
        "2 classes, 100 images",
    ):
        assert part in text
    assert "Mixed:" not in text
    for suffix in ("tex", "png", "pdf"):
        assert (study.experiment.directory / f"transfer.{suffix}").stat().st_size
