"""Node keys are what OpenSSH writes and Flower reads."""

from __future__ import annotations

import argparse
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from privet.deployment.parties import NodeKey, PartiesError


def test_flower_reads_both_halves(tmp_path: Path) -> None:
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    key = NodeKey.create(tmp_path / "node.key")
    arguments = argparse.Namespace(
        auth_supernode_private_key=str(tmp_path / "node.key"), auth_supernode_public_key=None
    )
    pair = _try_setup_client_authentication(arguments)
    assert pair is not None
    assert pair[0].private_numbers() == key.private.private_numbers()
    (tmp_path / "node.pub").write_text(key.public)
    assert try_load_public_key(tmp_path / "node.pub") == public_key_to_bytes(pair[1])


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_openssh_agrees(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    public = NodeKey.create(ours).public
    said = subprocess.run(
        ["ssh-keygen", "-y", "-f", ours], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == public
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f", theirs],
        check=True,
    )
    assert theirs.with_suffix(".pub").read_text().strip() == NodeKey.load(theirs).public


def test_a_key_is_for_its_owner_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    key = NodeKey.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert NodeKey.load(path).public == key.public
    with pytest.raises(PartiesError, match="exists already: a key is never overwritten"):
        NodeKey.create(path)
    assert [each.name for each in tmp_path.iterdir()] == ["node.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    NodeKey.create(path)
    path.chmod(0o640)
    with pytest.raises(PartiesError, match="has mode 0640: others may read the key; chmod 600 it"):
        NodeKey.load(path)


def test_what_is_no_node_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with pytest.raises(PartiesError, match="cannot be read"):
        NodeKey.load(path)
    path.touch(0o600)
    with pytest.raises(PartiesError, match="holds no node key"):
        NodeKey.load(path)
    with pytest.raises(PartiesError, match="cannot be written"):
        NodeKey.create(tmp_path / "absent" / "node.key")


def test_a_key_shows_its_public_half_only() -> None:
    key = NodeKey(ec.generate_private_key(ec.SECP384R1()))
    assert repr(key) == f"NodeKey(public={key.public!r})"
    with pytest.raises(TypeError, match="not copied or pickled"):
        pickle.dumps(key)
