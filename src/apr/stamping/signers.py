"""Who signs, and who must have signed: a key in a file, or a log-in by way of Sigstore.

With a key nothing leaves the machine. Keyless signatures ask the network, only when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from apr.errors import AprError, InputOutputError, MissingExtraError, NotFoundError, UsageError


class KeySigner(NamedTuple):
    """private_key: a PEM file with an elliptic-curve key (P-256, P-384 or P-521). password: of an encrypted one."""

    private_key: Path
    password: bytes | None = None


class KeyVerifier(NamedTuple):
    """public_key: a PEM file, the public half of the signer's key."""

    public_key: Path


class Sigstore(NamedTuple):
    """Keyless: who signs is shown by a log-in, and recorded in a public log. Asks the network.

    identity, identity_provider: who must have signed and who vouches for that (an URL); for verifying.
    """

    identity: str = ""
    identity_provider: str = ""


def library() -> Any:
    """The package `model_signing`; MissingExtraError with the install command where it is not installed."""
    try:
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingExtraError(
            f"signing needs model-signing ({error.name} is not installed)", remedy="pip install 'apr[sign]'"
        ) from error
    return model_signing


def method_of(how: KeySigner | KeyVerifier | Sigstore) -> str:
    """`key` or `sigstore`, for answers."""
    return "sigstore" if isinstance(how, Sigstore) else "key"


def use_signer(config: Any, signer: KeySigner | Sigstore) -> None:
    """Let the signing `config` of the library sign so; raises UsageError, NotFoundError, InputOutputError."""
    if isinstance(signer, Sigstore):
        with _network():
            config.use_sigstore_signer(use_ambient_credentials=True)
        return
    with _key(signer.private_key, "private"):
        config.use_elliptic_key_signer(private_key=signer.private_key, password=signer.password)


def use_verifier(config: Any, verifier: KeyVerifier | Sigstore) -> None:
    """Let the verifying `config` of the library verify so; raises as `use_signer`."""
    if isinstance(verifier, Sigstore):
        with _network():
            config.use_sigstore_verifier(identity=verifier.identity, oidc_issuer=verifier.identity_provider)
        return
    with _key(verifier.public_key, "public"):
        config.use_elliptic_key_verifier(public_key=verifier.public_key)


@contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except AprError:
        raise
    except Exception as error:
        raise InputOutputError(
            "Sigstore could not be reached, or refused",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="look at the connection, or sign with a key: --private-key KEY.pem",
        ) from error


@contextmanager
def _key(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"no such {kind} key", where=str(path), remedy="check the path") from error
    except OSError as error:
        raise InputOutputError(f"cannot read the {kind} key: {error.strerror}", where=str(path)) from error
    except Exception as error:
        raise UsageError(
            f"the {kind} key cannot be used",
            where=str(path),
            expected=f"a PEM file with {'an elliptic-curve' if kind == 'private' else 'a public elliptic-curve'} key"
            " (P-256, P-384 or P-521)",
            # The library asks an RSA key for its curve.
            found="a key of another kind" if isinstance(error, AttributeError) else str(error)[:200],
            remedy="--password-file FILE for an encrypted one"
            if kind == "private"
            else "openssl pkey -in KEY.pem -pubout -out PUBLIC.pem",
        ) from error
