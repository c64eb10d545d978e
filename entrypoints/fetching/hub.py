"""Download of models from the Hugging Face hub and PaddleNLP's hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entrypoints.fetching.download import LIMIT, TEXT_LIMIT, NotFoundError, download
from paddle_stacks.errors import JobError, RequestError
from paddle_stacks.jobs import json_files

__all__ = ["from_hugging_face", "from_paddlenlp", "token"]

_TOKEN = Path("/run/secrets/hub_token")
_SUFFIXES = (".safetensors", ".json", ".jinja", "tokenizer.model")
_ELSEWHERE = "use another source of the model: this one is not trustworthy"
_WEIGHT_INDEXES = ("model.safetensors.index.json", "model_state.pdparams.index.json")
_WHOLE_WEIGHTS = ("model.safetensors", "model_state.pdparams")
_OPTIONAL = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", "chat_template.jinja", "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model", "vocab.json", "merges.txt",
)  # fmt: skip


def token() -> str:
    """Return the hub token from the mounted secret or HF_TOKEN; may be empty."""
    if _TOKEN.is_file():
        return _TOKEN.read_text(encoding="utf-8").strip()
    return os.environ.get("HF_TOKEN", "").strip()


def from_hugging_face(name: str, folder: Path) -> None:
    """Download the safetensors, the configuration and the tokenizer of a model to ``folder``.

    The hub's client lists the files with commit, sizes and the checksums of large ones;
    :func:`.download.download` downloads them.

    Args:
        name: ``ORG/NAME``.
        folder: the destination; an interrupted download resumes there.

    Raises:
        RequestError: the model does not exist, or requires a token.
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
            remedy="choose a model with safetensors: pickled weights are not read",
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
                f"{sibling.rfilename} does not have {sibling.size} bytes",
                where=url,
                remedy="try again: the download was incomplete, or the file has changed",
            )


def from_paddlenlp(
    name: str, folder: Path, url_of: Callable[[str, str], str] | None = None
) -> None:
    """Download the checkpoint of a model on PaddleNLP's own hub to ``folder``.

    Args:
        name: ``ORG/NAME``.
        folder: the destination; an interrupted download resumes there.
        url_of: returns a file's URL; upstream's own function by default, which uses
            ``PPNLP_ENDPOINT``.

    Raises:
        RequestError: the model does not exist.
        JobError: the hub cannot be reached.
    """
    url_of = url_of or _upstreams_url
    try:
        download(url_of(name, "config.json"), folder / "config.json", limit=TEXT_LIMIT)
    except NotFoundError as error:
        raise RequestError(
            f'PaddleNLP\'s hub has no model "{name}"',
            where=error.problems[0].where,
            remedy="names are case-sensitive, such as meta-llama/Llama-2-7b-chat",
        ) from error
    for file in _OPTIONAL:
        _if_there(url_of(name, file), folder / file, limit=TEXT_LIMIT)
    # The hub has no list of files; these are the names that PaddleNLP tries.
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
        remedy="use another source: --from huggingface:ORG/NAME, or a folder",
    )


def _upstreams_url(name: str, file: str) -> str:
    from paddlenlp.utils.download.bos_download import bos_url

    return str(bos_url(name, file))


def _if_there(url: str, target: Path, limit: int = LIMIT) -> bool:
    try:
        download(url, target, limit=limit)
    except NotFoundError:
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
            f"{name} is gated: its conditions must be accepted",
            where=where,
            remedy="accept them on the model's page, and use a token of that account "
            "(HF_TOKEN, or the file /run/secrets/hub_token)",
        ) from error
    except RepositoryNotFoundError as error:
        # The hub responds with 401 both for missing and for private models.
        raise RequestError(
            f'the model "{name}" does not exist on the Hugging Face hub, or is private',
            where=where,
            remedy="check the name; a private model requires a token "
            "(HF_TOKEN, or the file /run/secrets/hub_token)",
        ) from error
    except HFValidationError as error:
        raise RequestError(
            f"invalid model name: {error}",
            where=where,
            remedy="use --from huggingface:ORG/NAME with the name on the hub's page",
        ) from error
    except (HfHubHTTPError, RequestException, OfflineModeIsEnabled) as error:
        raise JobError(
            f"the Hugging Face hub cannot be reached: {_reason(error)}",
            where=where,
            remedy="check the network, the proxy and the certificates, or set HF_ENDPOINT to a "
            "mirror",
        ) from error


def _reason(error: Exception) -> str:
    """Return the innermost reason of an exception of requests, which wraps those of urllib3."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", None) or inner
    return (str(inner).strip().splitlines() or [type(error).__name__])[0]
