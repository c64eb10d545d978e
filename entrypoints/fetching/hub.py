"""Models on a hub: which files belong to one, and how they come here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entrypoints.fetching.download import LIMIT, TEXT_LIMIT, NotThere, download
from paddle_stacks.errors import JobError, RequestError
from paddle_stacks.jobs import json_files

__all__ = ["from_hugging_face", "from_paddlenlp", "token"]

_TOKEN = Path("/run/secrets/hub_token")
_SUFFIXES = (".safetensors", ".json", ".jinja", "tokenizer.model")
_ELSEWHERE = "choose another source of the model: this one is not to be trusted"
_WEIGHT_INDEXES = ("model.safetensors.index.json", "model_state.pdparams.index.json")
_WHOLE_WEIGHTS = ("model.safetensors", "model_state.pdparams")
_OPTIONAL = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", "chat_template.jinja", "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model", "vocab.json", "merges.txt",
)  # fmt: skip


def token() -> str:
    """Return the hub token that was mounted as a secret or is set as HF_TOKEN; may be empty."""
    if _TOKEN.is_file():
        return _TOKEN.read_text(encoding="utf-8").strip()
    return os.environ.get("HF_TOKEN", "").strip()


def from_hugging_face(name: str, folder: Path) -> None:
    """Bring the safetensors, the configuration and the tokenizer of a model into ``folder``.

    The hub's client says which files there are, at which commit, how long, and
    the sums of the large ones; the bytes come by :func:`.download.download`.

    Args:
        name: ``ORG/NAME``.
        folder: where they go; a download that was cut off there goes on.

    Raises:
        RequestError: there is no such model, or none without a token.
        JobError: the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_url

    secret = token()
    info = _model_info(name, secret)
    siblings = [
        s for s in info.siblings if "/" not in s.rfilename and s.rfilename.endswith(_SUFFIXES)
    ]
    if not any(s.rfilename.endswith(".safetensors") for s in siblings):
        raise RequestError(
            f"{name} has no safetensors weights",
            where=f"huggingface:{name}",
            remedy="pickled weights are not read; look for a model that has safetensors",
        )
    for sibling in siblings:
        url = hf_hub_url(name, sibling.rfilename, revision=info.sha)
        sha256 = sibling.lfs.sha256 if sibling.lfs else ""
        target = folder / sibling.rfilename
        limit = LIMIT if sibling.size is None else sibling.size
        download(url, target, sha256=sha256, token=secret, limit=limit)
        if sibling.size is not None and target.stat().st_size != sibling.size:
            target.unlink()
            raise RequestError(
                f"{sibling.rfilename} is not {sibling.size} bytes long",
                where=url,
                remedy="try again: the file was cut off, or has been changed on the hub",
            )


def from_paddlenlp(
    name: str, folder: Path, url_of: Callable[[str, str], str] | None = None
) -> None:
    """Bring the checkpoint of a model on PaddleNLP's own hub into ``folder``.

    Args:
        name: ``ORG/NAME``.
        folder: where it goes; a download that was cut off there goes on.
        url_of: gives a file's address; upstream's own function by default, which
            honours ``PPNLP_ENDPOINT``.

    Raises:
        RequestError: there is no such model.
        JobError: the hub cannot be reached.
    """
    url_of = url_of or _upstreams_url
    try:
        download(url_of(name, "config.json"), folder / "config.json", limit=TEXT_LIMIT)
    except NotThere as error:
        raise RequestError(
            f'PaddleNLP\'s hub has no model "{name}"',
            where=error.problems[0].where,
            remedy="names are case-sensitive: meta-llama/Llama-2-7b-chat, for instance",
        ) from error
    for file in _OPTIONAL:
        _if_there(url_of(name, file), folder / file, limit=TEXT_LIMIT)
    # The hub has no list of files: what PaddleNLP itself would try, in its order.
    for index in _WEIGHT_INDEXES:
        if _if_there(url_of(name, index), folder / index, limit=TEXT_LIMIT):
            for file in sorted(set(json_files.shards(folder / index, remedy=_ELSEWHERE).values())):
                download(url_of(name, file), folder / file)
            return
    for file in _WHOLE_WEIGHTS:
        if _if_there(url_of(name, file), folder / file):
            return
    raise RequestError(
        f"{name} has no weights on PaddleNLP's hub",
        where=f"paddlenlp:{name}",
        remedy="choose another source: --from huggingface:ORG/NAME, or a folder",
    )


def _upstreams_url(name: str, file: str) -> str:
    from paddlenlp.utils.download.bos_download import bos_url

    return str(bos_url(name, file))


def _if_there(url: str, target: Path, limit: int = LIMIT) -> bool:
    try:
        download(url, target, limit=limit)
    except NotThere:
        return False
    return True


def _model_info(name: str, secret: str) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from requests.exceptions import RequestException

    where = f"huggingface:{name}"
    try:
        return HfApi(token=secret or False).model_info(name, files_metadata=True, timeout=60)
    except GatedRepoError as error:
        raise RequestError(
            f"{name} is gated: its maker's conditions have to be accepted",
            where=where,
            remedy="accept them on the model's page, and give a token of that account "
            "(HF_TOKEN, or the file /run/secrets/hub_token)",
        ) from error
    except RepositoryNotFoundError as error:
        # The hub answers 401 for what does not exist as well as for what is private.
        raise RequestError(
            f'the Hugging Face hub shows no model "{name}"',
            where=where,
            remedy="check the name; a private model needs a token "
            "(HF_TOKEN, or the file /run/secrets/hub_token)",
        ) from error
    except HFValidationError as error:
        raise RequestError(
            f"not a model's name: {error}",
            where=where,
            remedy="--from huggingface:ORG/NAME, as the hub's page has it",
        ) from error
    except (HfHubHTTPError, RequestException, OfflineModeIsEnabled) as error:
        raise JobError(
            f"the Hugging Face hub cannot be asked: {_reason(error)}",
            where=where,
            remedy="check the network, the proxy and the certificates, or set HF_ENDPOINT to a "
            "mirror",
        ) from error


def _reason(error: Exception) -> str:
    """Return what lies at the bottom of a requests error, which wraps urllib3's in its own."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", None) or inner
    return (str(inner).strip().splitlines() or [type(error).__name__])[0]
