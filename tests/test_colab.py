"""What the first cell does on Colab: only what is missing is installed, and nothing that is there moves."""

import subprocess
import sys
from importlib import metadata

import pytest

from lowrank_edu import colab

REQUIREMENTS = [
    "numpy>=2.0",
    "torch>=2.9",
    "tqdm>=4.66",
    'transformers>=5.10; extra == "gpt2"',
    'peft>=0.19; extra == "peft"',
    'lowrank_edu[gpt2]; extra == "peft"',
    'bitsandbytes>=0.48; extra == "qlora"',
    'colorama; sys_platform == "nowhere"',
]


def names(requirements):
    return [requirement.name for requirement in requirements]


def test_needed_follows_extras_and_markers():
    assert names(colab.needed(REQUIREMENTS, ())) == ["numpy", "torch", "tqdm"]
    assert names(colab.needed(REQUIREMENTS)) == ["numpy", "torch", "tqdm", "transformers", "peft"]
    assert "bitsandbytes" in names(colab.needed(REQUIREMENTS, ("qlora",)))


def test_nothing_to_do_when_all_is_there():
    have = {
        "numpy": "2.0.2",
        "torch": "2.11.0+cu128",
        "tqdm": "4.67",
        "transformers": "5.13.0",
        "peft": "0.20.0",
    }
    assert colab.plan(colab.needed(REQUIREMENTS), have) == (
        [],
        [f"{n}=={v}" for n, v in sorted(have.items())],
        [],
    )


def test_what_is_missing_is_installed_and_the_rest_is_held():
    have = {"numpy": "2.1.3", "torch": "2.11.0+cu128", "transformers": "5.15.0", "jax": "0.7"}
    install, hold, too_old = colab.plan(colab.needed(REQUIREMENTS), have)
    assert install == ["tqdm>=4.66", "peft>=0.19"]
    assert hold == ["jax==0.7", "numpy==2.1.3", "torch==2.11.0+cu128", "transformers==5.15.0"]
    assert too_old == []


def test_an_old_library_is_renewed_but_torch_and_numpy_never():
    have = {"numpy": "1.26", "torch": "2.4.0", "tqdm": "4.67", "transformers": "5.1", "peft": "0.20"}
    install, hold, too_old = colab.plan(colab.needed(REQUIREMENTS), have)
    assert install == ["transformers>=5.10"]
    assert "transformers==5.1" not in hold and {"numpy==1.26", "torch==2.4.0"} <= set(hold)
    assert [line.split()[0] for line in too_old] == ["numpy", "torch"]


def test_the_metadata_of_this_package_can_be_planned():
    requirements = colab.needed(metadata.requires("lowrank_edu"))
    assert {"numpy", "torch", "transformers", "peft"} <= set(names(requirements))
    assert colab.plan(requirements, colab.installed_versions())[0] == []


def test_complete_says_nothing_when_nothing_is_missing(capfd, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))
    colab.complete()
    assert capfd.readouterr() == ("", "")


def test_complete_says_one_sentence_when_pip_cannot(capsys, monkeypatch):
    monkeypatch.setattr(colab, "installed_versions", lambda: {"numpy": "2.1.3"})
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1))
    colab.complete()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "keeps its own torch is missing" in said[0]
    assert "cells that train a model stop" in said[0], "which cells are concerned"
    assert "Could not add" in said[1] and "peft" in said[1]


def test_setup_installs_on_a_hosted_machine_only(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(colab, "complete", lambda: calls.append("complete"))
    monkeypatch.setattr(colab, "installed_versions", lambda: {"numpy": "2.1.3", "torch": "2.4.0"})
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    colab.setup()
    said = capsys.readouterr().out
    assert calls == [] and sys.executable in said and "is not the book's .venv" in said
    assert "torch" in said and "transformers" in said and "peft" in said and "numpy," not in said
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20261101")
    colab.setup()
    assert calls == ["complete"] and capsys.readouterr().out == ""


def test_setup_is_silent_where_nothing_is_missing(capfd):
    colab.setup()
    assert capfd.readouterr() == ("", "")


def test_what_is_needed_is_known_without_an_installation(monkeypatch):
    """From a folder, pyproject.toml says what an installed package's metadata says."""
    installed = {str(r) for r in colab.needed(metadata.requires("lowrank_edu"))}

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert {str(r) for r in colab.needed(colab.requirements())} == installed and len(installed) > 6


def test_checkpoints_go_to_a_mounted_drive_and_stay_there(tmp_path, capsys):
    drive = tmp_path / "MyDrive"
    drive.mkdir()
    folder = colab.checkpoint_folder("ch07", drive, tmp_path / "here")
    assert folder == drive / "lowrank_edu" / "ch07" and folder.is_dir()
    (folder / "step-10.pt").write_bytes(b"kept")
    assert colab.checkpoint_folder("ch07", drive, tmp_path / "here") == folder
    assert [file.name for file in folder.iterdir()] == ["step-10.pt"]
    assert not (tmp_path / "here").exists() and capsys.readouterr().out == ""


def test_without_drive_checkpoints_are_local_and_one_sentence_says_so(tmp_path, capsys):
    folder = colab.checkpoint_folder("ch07", tmp_path / "absent", tmp_path / "here")
    assert folder == tmp_path / "here" / "ch07" and folder.is_dir()
    assert not (tmp_path / "absent").exists(), "a folder that looks like a mounted Drive was made"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "not mounted" in said[0] and str(folder) in said[0]


def test_a_drive_that_cannot_be_written_to_is_told_apart(tmp_path, capsys):
    drive = tmp_path / "MyDrive"
    drive.mkdir()
    (drive / "lowrank_edu").write_text("a file where the folder should be")
    assert colab.checkpoint_folder("ch07", drive, tmp_path / "here") == tmp_path / "here" / "ch07"
    assert "refuses" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", ".", "..", "../ch07", "a/b", "a\\b"])
def test_a_checkpoint_folder_has_a_plain_name(tmp_path, name):
    with pytest.raises(ValueError, match="plain folder name"):
        colab.checkpoint_folder(name, tmp_path, tmp_path)


def test_a_bare_python_is_asked_with_the_copy_that_pip_carries(monkeypatch):
    """A virtual environment without `packaging`: setup still says what is missing."""
    wanted = names(colab.needed(REQUIREMENTS))
    monkeypatch.setitem(sys.modules, "packaging", None)
    for name in [name for name in sys.modules if name.startswith("packaging.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert names(colab.needed(REQUIREMENTS)) == wanted
    assert "numpy" in colab.installed_versions()


def test_two_messages_that_no_learner_can_act_on_are_left_out_and_no_others(recwarn, caplog):
    import logging
    import warnings

    kernels = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with warnings.catch_warnings():
        colab.setup()
        colab.setup()
        assert len(kernels.filters) == 1
        warnings.warn("`is_gradient_checkpointing` is deprecated.", FutureWarning, stacklevel=1)
        warnings.warn("`something_else` is deprecated.", FutureWarning, stacklevel=1)
    kernels.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no kernels")
    kernels.warning("Something that matters.")
    assert [str(w.message) for w in recwarn if w.category is FutureWarning] == ["`something_else` is deprecated."]
    assert [record.getMessage() for record in caplog.records] == ["Something that matters."]
