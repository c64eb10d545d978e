"""Test results of an image, stored by the image's id.

An attestation is an in-toto Statement v1 [1] with the predicate Test Result v0.1 [2]. Its
subject is the image's id: it applies to every copy of the image, but not to an image that is
rebuilt or takes over the tag. It is not a signature: anyone who can write the folder can write
one.

[1] https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
[2] https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.settings import Settings

__all__ = ["Attestation", "folder", "path_of", "read", "write"]

_STATEMENT = "https://in-toto.io/Statement/v1"
_TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
# Fields that the predicate lacks; readers of in-toto statements ignore unknown fields.
_OWN = "paddle-stacks"
_IMAGE_ID = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Attestation:
    """The test results of one image.

    Args:
        image_id: the engine's id, ``sha256:`` and 64 digits.
        image: the image's reference when it was tested.
        when: the end of the tests, in UTC, such as ``2025-01-02T03:04:05Z``.
        revision: of the tests; ends in ``-dirty`` if they were edited.
        passed: names of the tests that passed.
        failed: names of the tests that failed or ended with an error.
        skipped: names of the tests that this machine cannot run.
    """

    image_id: str
    image: str
    when: str
    revision: str
    passed: tuple[str, ...]
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Return whether at least one test has passed and none has failed."""
        return bool(self.passed) and not self.failed

    def to_statement(self) -> dict[str, Any]:
        """Return the attestation as an in-toto Statement."""
        return {
            "_type": _STATEMENT,
            "subject": [{"name": self.image, "digest": {"sha256": _digits(self.image_id)}}],
            "predicateType": _TEST_RESULT,
            "predicate": {
                "result": "PASSED" if self.verified else "FAILED",
                "configuration": [
                    {"name": "tests/images", "annotations": {"revision": self.revision}}
                ],
                "passedTests": list(self.passed),
                "warnedTests": [],
                "failedTests": list(self.failed),
                _OWN: {
                    "finishedOn": self.when,
                    "skippedTests": list(self.skipped),
                    "counts": {
                        "passed": len(self.passed),
                        "failed": len(self.failed),
                        "skipped": len(self.skipped),
                    },
                },
            },
        }


def folder(settings: Settings) -> Path:
    """Return the folder of attestations: the setting, or ``.cache/attestations``."""
    return settings.attestations or settings.root / ".cache" / "attestations"


def path_of(folder: Path, image_id: str) -> Path:
    """Return the path of an image's attestation; the file need not exist."""
    return folder / f"{_digits(image_id)}.json"


def write(folder: Path, attestation: Attestation) -> Path:
    """Write an attestation, replacing an earlier one of the same image; return its path."""
    path = path_of(folder, attestation.image_id)
    with replacing_file(path) as stream:
        json.dump(attestation.to_statement(), stream, indent=1, ensure_ascii=False)
        stream.write("\n")
    return path


def read(folder: Path, image_id: str) -> Attestation | None:
    """Return the attestation of an image; None if there is none.

    Raises:
        RequestError: the file is damaged, or belongs to another image.
    """
    path = path_of(folder, image_id)
    try:
        statement = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    try:
        attestation = _parse(statement)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path, f"not a test result: {error}") from error
    if attestation.image_id != image_id:
        raise _damaged(path, f"it belongs to another image, {attestation.image_id}")
    return attestation


def _parse(statement: dict[str, Any]) -> Attestation:
    """Return the attestation in a statement.

    Raises:
        ValueError, KeyError, TypeError, IndexError, AttributeError: not such a statement.
    """
    for key, value in (("_type", _STATEMENT), ("predicateType", _TEST_RESULT)):
        if statement[key] != value:
            raise ValueError(f"{key} is not {value}")
    (subject,) = statement["subject"]
    predicate = statement["predicate"]
    own = predicate[_OWN]
    (configuration,) = predicate["configuration"]
    attestation = Attestation(
        image_id=f"sha256:{subject['digest']['sha256']}",
        image=str(subject["name"]),
        when=str(own["finishedOn"]),
        revision=str(configuration["annotations"]["revision"]),
        passed=_names(predicate["passedTests"]),
        failed=_names(predicate["failedTests"]),
        skipped=_names(own["skippedTests"]),
    )
    if predicate["result"] != ("PASSED" if attestation.verified else "FAILED"):
        raise ValueError(f"the result {predicate['result']} contradicts the tests")
    return attestation


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("the tests are not a list of strings")
    return tuple(value)


def _digits(image_id: str) -> str:
    """Return an id's digits, which are safe in a file name.

    Raises:
        RequestError: it is not an image id.
    """
    match = _IMAGE_ID.fullmatch(image_id)
    if not match:
        raise RequestError(
            f'"{image_id}" is not an image\'s id',
            remedy="docker image inspect --format '{{.Id}}' IMAGE prints it: sha256:…",
        )
    return match[1]


def _damaged(path: Path, reason: str) -> RequestError:
    return RequestError(
        f"the attestation cannot be used: {reason}",
        where=str(path),
        remedy="remove it and verify the image again: ./inv verify",
    )
