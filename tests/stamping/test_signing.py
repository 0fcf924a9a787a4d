"""`apr sign` and `apr verify`: a signature holds for the bytes it was made over, and a stamp says that it breaks it."""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from apr.stamping.signatures import signature_path
from tests.cli.conftest import Answer, imported_by
from tests.stamping.conftest import QWEN2, Lie, files_below

pytest.importorskip("model_signing")

Apr = Callable[..., Answer]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key.pem and public.pem, other-public.pem, encrypted.pem (its password in password) and rsa.pem."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    folder = tmp_path_factory.mktemp("keys")

    def private(key: Any, encryption: forms.KeySerializationEncryption) -> bytes:
        return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, encryption)

    def public(key: Any) -> bytes:
        return key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)

    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    plain = forms.NoEncryption()
    (folder / "key.pem").write_bytes(private(key, plain))
    (folder / "encrypted.pem").write_bytes(private(key, forms.BestAvailableEncryption(b"secret")))
    (folder / "password").write_bytes(b"secret\n")
    (folder / "public.pem").write_bytes(public(key))
    (folder / "other-public.pem").write_bytes(public(other))
    (folder / "rsa.pem").write_bytes(private(rsa.generate_private_key(65537, 2048), plain))
    return folder


@pytest.fixture
def sign(apr: Apr, keys: Path) -> Apr:
    def call(path: Path, *arguments: object, key: str = "key.pem") -> Answer:
        return apr("sign", path, "--private-key", keys / key, *arguments)

    return call


@pytest.fixture
def verify(apr: Apr, keys: Path) -> Apr:
    def call(path: Path, *arguments: object, key: str = "public.pem") -> Answer:
        return apr("verify", path, "--public-key", keys / key, *arguments)

    return call


def run_again(apr: Apr, command: str, keys: Path) -> Answer:
    """Run a command that a message printed, with the key filled in."""
    words = shlex.split(command)
    assert words[:2] == ["apr", "sign"]
    return apr(*[str(keys / "key.pem") if word == "KEY.pem" else word for word in words[1:]])


@pytest.fixture
def run_directory(tmp_path: Path, make_lie: Callable[[str], Lie]) -> Path:
    """A run directory with a checkpoint two levels down and files beside it."""
    folder = tmp_path / "run"
    (folder / "ckpt").mkdir(parents=True)
    stamp_file(make_lie("apr").path, QWEN2, folder / "ckpt" / "epoch-000.apr")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    return folder


def test_what_was_signed_verifies_with_apr_and_with_the_library_itself(
    lie: Lie, sign: Apr, verify: Apr, keys: Path
) -> None:
    before = files_below(lie.path)
    answer = sign(lie.path, "--json")
    signature = signature_path(lie.path)
    count = len(before) if lie.path.is_dir() else 1
    assert answer.exit_code == 0
    assert answer.document == {
        "schema": "apr.sign/1",
        "file": str(lie.path),
        "signature": str(signature),
        "method": "key",
        "file_count": count,
    }
    assert signature.name == ("model.sig" if lie.path.is_dir() else f"{lie.path.name}.sig")
    assert {name: data for name, data in files_below(lie.path).items() if name != "model.sig"} == before
    checked = verify(lie.path, "--json")
    assert (checked.exit_code, checked.document["schema"], checked.document["verified"]) == (0, "apr.verify/1", True)
    import model_signing.verifying

    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys / "public.pem")
    config.verify(lie.path, signature)


@pytest.mark.planted_defect("INV-SIGNATURE-001")
@pytest.mark.falsifies("FALSIFY-SIGNATURE-001")
def test_a_stamp_says_that_it_breaks_the_signature_and_the_signature_then_does_not_hold(
    lie: Lie,
    sign: Apr,
    verify: Apr,
    apr: Apr,
    keys: Path,
) -> None:
    stamp_file(lie.path, QWEN2, in_place=True)
    sign(lie.path)
    signature = signature_path(lie.path)
    dry = apr("stamp", lie.path, "--license", "MIT", "--in-place", "--dry-run", "--json").document
    assert any(note.startswith(f"this would break the signature {signature}") for note in dry["notes"])
    assert verify(lie.path).exit_code == 0
    stamped = apr("stamp", lie.path, "--license", "MIT", "--in-place")
    assert f"this breaks the signature {signature}; to sign again: apr sign" in stamped.stderr
    answer = verify(lie.path, "--json")
    error = answer.document["error"]
    assert (answer.exit_code, error["invariant"]) == (5, "INV-SIGNATURE-001")
    assert "its newest stamp is of 20" in error["found"]
    assert error["facts"]["differences"]
    command = f"apr sign {lie.path} --private-key KEY.pem --force"
    assert error["remedy"] == command
    again = apr("stamp", lie.path, "--license", "ISC", "--in-place", "--json").document
    assert again["broken_signatures"] == [{"signature": str(signature), "signed": str(lie.path), "sign_again": command}]
    assert run_again(apr, command, keys).exit_code == 0
    assert verify(lie.path).exit_code == 0


def test_a_stamp_of_what_nobody_signed_or_that_writes_nothing_says_nothing(lie: Lie, sign: Apr) -> None:
    result = stamp_file(lie.path, QWEN2, in_place=True)
    assert result.broken_signatures == ()
    sign(lie.path)
    result = stamp_file(lie.path, QWEN2, in_place=True)
    assert result.broken_signatures == ()
    assert not any("signature" in note for note in result.notes)


@pytest.mark.planted_defect("INV-SIGNATURE-001")
def test_a_run_directory_is_signed_whole_and_every_difference_is_named(
    run_directory: Path, sign: Apr, verify: Apr
) -> None:
    assert sign(run_directory, "--json").document["file_count"] == 2
    assert verify(run_directory).exit_code == 0
    checkpoint = run_directory / "ckpt" / "epoch-000.apr"
    result = stamp_file(checkpoint, StampChanges(license="MIT"), in_place=True)
    assert [each.signature for each in result.broken_signatures] == [run_directory / "model.sig"]
    assert result.broken_signatures[0].signed == run_directory
    (run_directory / "extra.txt").write_text("x")
    (run_directory / "metrics.jsonl").unlink()
    answer = verify(run_directory, "--json")
    assert answer.exit_code == 5
    assert sorted(answer.document["error"]["facts"]["differences"]) == [
        "added: extra.txt",
        "ckpt/epoch-000.apr has other bytes",
        "missing: metrics.jsonl",
    ]


def test_a_stamped_copy_of_a_signed_directory_does_not_carry_its_signature(
    make_lie: Callable[[str], Lie], sign: Apr, verify: Apr
) -> None:
    lie = make_lie("hf")
    sign(lie.path)
    result = stamp_file(lie.path, QWEN2, lie.output())
    assert result.broken_signatures == ()
    assert not (result.output / "model.sig").exists()
    assert verify(lie.path).exit_code == 0


def test_a_copy_over_a_signed_file_breaks_that_signature(make_lie: Callable[[str], Lie], sign: Apr) -> None:
    lie = make_lie("apr")
    shutil.copy(lie.path, lie.output())
    sign(lie.output())
    result = stamp_file(lie.path, QWEN2, lie.output(), force=True)
    assert [each.signed for each in result.broken_signatures] == [lie.output()]


@pytest.mark.planted_defect("INV-SIGNATURE-001")
@pytest.mark.parametrize("forged", ["payload", "junk", "empty object", "bytes", "other key", "other file"])
def test_a_signature_that_was_not_made_over_these_bytes_is_refused(
    make_lie: Callable[[str], Lie], sign: Apr, verify: Apr, forged: str
) -> None:
    lie = make_lie("safetensors")
    sign(lie.path)
    signature = signature_path(lie.path)
    bundle = json.loads(signature.read_text())
    if forged == "payload":
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        payload["predicate"]["resources"][0]["digest"] = "0" * 64
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
        signature.write_text(json.dumps(bundle))
    elif forged == "other file":
        data = bytearray(lie.path.read_bytes())
        data[-1] ^= 1
        lie.path.write_bytes(data)
    elif forged != "other key":
        signature.write_bytes({"junk": b"junk", "empty object": b"{}", "bytes": b"\xff\xfe"}[forged])
    answer = verify(lie.path, "--json", key="other-public.pem" if forged == "other key" else "public.pem")
    error = answer.document["error"]
    assert (answer.exit_code, error["invariant"]) == (5, "INV-SIGNATURE-001")
    assert error["remedy"] == f"apr sign {lie.path} --private-key KEY.pem --force"
    assert ("of another key" in error["message"]) == (forged == "other key")
    assert error["facts"]["differences"] == ([f"{lie.path.name} has other bytes"] if forged == "other file" else [])


def test_keys_that_cannot_be_used_are_named(make_lie: Callable[[str], Lie], sign: Apr, verify: Apr, keys: Path) -> None:
    lie = make_lie("apr")
    for key, exit_code, text in (
        ("encrypted.pem", 2, "--password-file FILE"),
        ("rsa.pem", 2, "a key of another kind"),
        ("public.pem", 2, "an elliptic-curve key"),
        ("nowhere.pem", 3, "no such private key"),
    ):
        answer = sign(lie.path, key=key)
        assert answer.exit_code == exit_code, key
        assert text in answer.stderr
        assert str(keys / key) in answer.stderr
    assert not signature_path(lie.path).exists()
    assert sign(lie.path, "--password-file", keys / "password", key="encrypted.pem").exit_code == 0
    assert sign(lie.path, "--password-file", keys / "nowhere", "--force").exit_code == 3
    assert verify(lie.path).exit_code == 0
    answer = verify(lie.path, key="key.pem")
    assert answer.exit_code == 2
    assert "openssl pkey -in KEY.pem -pubout -out PUBLIC.pem" in answer.stderr


def test_what_cannot_be_signed_is_said(
    make_lie: Callable[[str], Lie], sign: Apr, verify: Apr, tmp_path: Path, run_directory: Path
) -> None:
    lie = make_lie("apr")
    assert verify(lie.path).exit_code == 3
    assert f"apr sign {lie.path} --private-key KEY.pem" in verify(lie.path).stderr
    assert sign(tmp_path / "nowhere.apr").exit_code == 3
    (tmp_path / "notes.txt").write_text("no checkpoint " * 20)
    assert sign(tmp_path / "notes.txt").exit_code == 4
    (tmp_path / "empty").mkdir()
    assert sign(tmp_path / "empty").exit_code == 2
    assert sign(lie.path).exit_code == 0
    again = sign(lie.path)
    assert (again.exit_code, "there is a signature already" in again.stderr) == (5, True)
    assert sign(lie.path, "--force").exit_code == 0
    (run_directory / "link").symlink_to("metrics.jsonl")
    answer = sign(run_directory)
    assert (answer.exit_code, f"cp -rL {run_directory} COPY" in answer.stderr) == (5, True)
    assert not (run_directory / "model.sig").exists()


def test_a_link_to_a_checkpoint_is_signed_as_the_file_it_leads_to(
    make_lie: Callable[[str], Lie], sign: Apr, verify: Apr, tmp_path: Path
) -> None:
    lie = make_lie("apr")
    link = tmp_path / "link.apr"
    link.symlink_to(lie.path)
    assert sign(link).exit_code == 0
    assert verify(link).exit_code == 0
    result = stamp_file(link, QWEN2, in_place=True)
    assert [each.signature for each in result.broken_signatures] == [tmp_path / "link.apr.sig"]


def test_a_signature_elsewhere_is_named_in_the_command_that_signs_again(
    make_lie: Callable[[str], Lie], sign: Apr, verify: Apr, tmp_path: Path
) -> None:
    lie = make_lie("apr")
    elsewhere = tmp_path / "elsewhere.json"
    sign(lie.path, "--signature", elsewhere)
    assert verify(lie.path, "--signature", elsewhere).exit_code == 0
    stamp_file(lie.path, QWEN2, in_place=True)
    answer = verify(lie.path, "--signature", elsewhere, "--json")
    expected = f"apr sign {lie.path} --private-key KEY.pem --signature {elsewhere} --force"
    assert answer.document["error"]["remedy"] == expected


def test_with_a_key_nothing_asks_the_network(
    make_lie: Callable[[str], Lie], sign: Apr, verify: Apr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    lie = make_lie("safetensors")
    assert (sign(lie.path).exit_code, verify(lie.path).exit_code) == (0, 0)


def test_the_network_is_asked_only_by_name_and_its_failure_is_said(
    make_lie: Callable[[str], Lie],
    sign: Apr,
    apr: Apr,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import model_signing.signing
    import model_signing.verifying

    asked: list[dict[str, Any]] = []

    def fail(_: object, **options: Any) -> Any:
        asked.append(options)
        raise RuntimeError("no route")

    monkeypatch.setattr(model_signing.signing.Config, "use_sigstore_signer", fail)
    monkeypatch.setattr(model_signing.verifying.Config, "use_sigstore_verifier", fail)
    lie = make_lie("apr")
    for words in (["sign", lie.path], ["sign", lie.path, "--private-key", "x", "--sigstore"], ["verify", lie.path]):
        assert apr(*words).exit_code == 2
    assert apr("verify", lie.path, "--sigstore", "--identity", "a@b.c").exit_code == 2
    assert asked == []
    signed = apr("sign", lie.path, "--sigstore")
    assert (signed.exit_code, "RuntimeError: no route" in signed.stderr) == (7, True)
    sign(lie.path)
    who = ["--identity", "a@b.c", "--identity-provider", "https://accounts.example"]
    assert apr("verify", lie.path, "--sigstore", *who).exit_code == 7
    assert asked[1] == {"identity": "a@b.c", "oidc_issuer": "https://accounts.example"}


def test_without_the_extra_the_install_command_is_said(
    make_lie: Callable[[str], Lie], sign: Apr, verify: Apr, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = make_lie("apr")
    monkeypatch.setitem(sys.modules, "model_signing.hashing", None)
    for call in (sign, verify):
        answer = call(lie.path, "--json")
        assert answer.exit_code == 2
        assert answer.document["error"]["kind"] == "MissingExtraError"
        assert answer.document["error"]["remedy"] == "pip install 'apr[sign]'"


def test_a_stamp_of_a_signed_file_imports_no_signing_library(make_lie: Callable[[str], Lie], sign: Apr) -> None:
    lie = make_lie("apr")
    sign(lie.path)
    modules = imported_by("stamp", str(lie.path), "--auto", "--hf-model-type", "qwen2", "--in-place")
    assert not {"model_signing", "cryptography", "sigstore", "OpenSSL"} & modules
    assert "apr.stamping.signatures" in modules


def test_git_files_at_the_top_are_not_signed_as_the_documentation_says(
    sign: Apr, apr: Apr, keys: Path, make_lie: Callable[[str], Lie]
) -> None:
    path = make_lie("hf").path
    (path / ".gitattributes").write_text("before")
    (path / "below").mkdir()
    (path / "below" / ".gitattributes").write_text("before")
    assert sign(path).exit_code == 0
    (path / ".gitattributes").write_text("after")
    (path / ".github").mkdir()
    (path / ".github" / "new").write_text("new")
    assert apr("verify", path, "--public-key", keys / "public.pem").exit_code == 0
    (path / "below" / ".gitattributes").write_text("after")
    assert apr("verify", path, "--public-key", keys / "public.pem").exit_code == 5
