"""`apr sign` and `apr verify`: who published these bytes, and are they still the same?"""

from __future__ import annotations

from pathlib import Path

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import NotFoundError, UsageError, shell_word

SIGNATURE = click.option(
    "--signature", type=PATH, metavar="SIG", help="The signature [X.sig beside a file, model.sig in a directory]."
)


@click.command("sign")
@click.argument("path", type=PATH, metavar="X")
@click.option("--private-key", type=PATH, metavar="KEY.pem", help="Sign with this elliptic-curve key; no network.")
@click.option("--password-file", type=PATH, metavar="FILE", help="File whose first line is the password of the key.")
@click.option("--sigstore", is_flag=True, help="Sign with a log-in instead of a key; asks the network.")
@SIGNATURE
@click.option("-f", "--force", is_flag=True, help="Replace a signature that stands there.")
@json_option
@click.pass_obj
def sign(
    out: Out,
    path: Path,
    private_key: Path | None,
    password_file: Path | None,
    sigstore: bool,
    signature: Path | None,
    force: bool,
) -> None:
    """Sign X, a checkpoint file, a checkpoint directory or a run directory, with OpenSSF model-signing.

    Anybody can verify it with `apr verify` or with the `model_signing` command. A stamp made later breaks it.
    """
    if (private_key is not None) == sigstore:
        raise UsageError(
            "say who signs",
            expected="either --private-key KEY.pem or --sigstore",
            found="both" if sigstore else "neither",
            remedy=f"apr sign {shell_word(path)} --private-key KEY.pem",
        )
    from apr.stamping.signers import KeySigner, Sigstore
    from apr.stamping.signing import sign_path

    signer = Sigstore() if private_key is None else KeySigner(private_key, _password(password_file))
    signed = sign_path(path, signer, signature, force=force)
    out.document(
        "apr.sign/1",
        {
            "file": str(signed.path),
            "signature": str(signed.signature),
            "method": signed.method,
            "file_count": signed.file_count,
        },
    )
    out.text(f"signed {signed.path}", bold=True)
    out.pairs([("signature", signed.signature), ("method", signed.method), ("files", signed.file_count)])


@click.command("verify")
@click.argument("path", type=PATH, metavar="X")
@click.option("--public-key", type=PATH, metavar="KEY.pem", help="Public key of the signer; no network.")
@click.option("--sigstore", is_flag=True, help="Verify a keyless signature; asks the network.")
@click.option("--identity", metavar="ID", help="With --sigstore: who must have signed, as an e-mail address.")
@click.option("--identity-provider", metavar="URL", help="With --sigstore: who vouches for that identity.")
@SIGNATURE
@json_option
@click.pass_obj
def verify(
    out: Out,
    path: Path,
    public_key: Path | None,
    sigstore: bool,
    identity: str | None,
    identity_provider: str | None,
    signature: Path | None,
) -> None:
    """Verify the signature of X; every byte is read.

    Exit 5 when it does not hold, with the command that signs again.
    """
    if (public_key is not None) == sigstore or sigstore != bool(identity and identity_provider):
        raise UsageError(
            "say who must have signed",
            expected="either --public-key KEY.pem, or --sigstore with --identity ID and --identity-provider URL",
            remedy=f"apr verify {shell_word(path)} --public-key KEY.pem",
        )
    from apr.stamping.signers import KeyVerifier, Sigstore
    from apr.stamping.verifying import verify_path

    verifier = Sigstore(identity or "", identity_provider or "") if public_key is None else KeyVerifier(public_key)
    verified = verify_path(path, verifier, signature)
    out.document(
        "apr.verify/1",
        {
            "file": str(verified.path),
            "signature": str(verified.signature),
            "method": verified.method,
            "verified": True,
            "notes": list(verified.notes),
        },
    )
    for note in verified.notes:
        out.warning(note)
    out.text(f"verified {verified.path}: every byte is as it was signed", bold=True, color="green")


def _password(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes().split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as error:
        raise NotFoundError(
            f"cannot read the password: {error.strerror}", where=str(file), remedy="check --password-file"
        ) from error
