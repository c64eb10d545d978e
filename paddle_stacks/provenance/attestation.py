"""What the tests found of an image, kept by the image's id.

An attestation is an in-toto Statement v1 [1] with the predicate Test Result v0.1 [2]. Its
subject is the image's id, so an image that is built again or another one that takes the tag
has none; a copy of the image has it, wherever it goes. It is a statement, not a signature:
who can write the folder can write one.

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
# What the predicate has no field for; in-toto has readers ignore the fields they do not know.
_OWN = "paddle-stacks"
_IMAGE_ID = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Attestation:
    """How the tests of one image ended.

    Args:
        image_id: the engine's, ``sha256:`` and 64 digits.
        image: the reference that the image had.
        when: the end of the tests, in UTC, as ``2025-01-02T03:04:05Z``.
        revision: of the tests; ends in ``-dirty`` where they were edited.
        passed: the names of the tests that passed.
        failed: of those that failed, or could not be run for an error.
        skipped: of those that this machine has no means for.
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
        """Whether tests have passed, and none has failed."""
        return bool(self.passed) and not self.failed

    def to_statement(self) -> dict[str, Any]:
        """Return the attestation as an in-toto Statement."""
        return {
            "_type": _STATEMENT,
            "subject": [{"name": self.image, "digest": {"sha256": _digits(self.image_id)}}],
            "predicateType": _TEST_RESULT,
            "predicate": {
                "result": "PASSED" if self.verified else "FAILED",
                "configuration": [{"name": "tests/images", "annotations": self._annotations()}],
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

    def _annotations(self) -> dict[str, str]:
        return {"revision": self.revision}


def folder(settings: Settings) -> Path:
    """Return where attestations are kept: the setting, or ``.cache/attestations``."""
    return settings.attestations or settings.root / ".cache" / "attestations"


def path_of(folder: Path, image_id: str) -> Path:
    """Return the file of an image's attestation, whether it is there or not."""
    return folder / f"{_digits(image_id)}.json"


def write(folder: Path, attestation: Attestation) -> Path:
    """Keep an attestation instead of an earlier one of the same image; return its file."""
    path = path_of(folder, attestation.image_id)
    with replacing_file(path) as stream:
        json.dump(attestation.to_statement(), stream, indent=1, ensure_ascii=False)
        stream.write("\n")
    return path


def read(folder: Path, image_id: str) -> Attestation | None:
    """Return the attestation of an image; None where there is none.

    Raises:
        RequestError: the file is damaged, or is about another image.
    """
    path = path_of(folder, image_id)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    try:
        attestation = _parsed(found)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path, f"it is no test result: {error}") from error
    if attestation.image_id != image_id:
        raise _damaged(path, f"it is about another image, {attestation.image_id}")
    return attestation


def _parsed(statement: dict[str, Any]) -> Attestation:
    """Return a statement as a value.

    Raises:
        ValueError, KeyError, TypeError, IndexError, AttributeError: it is no such statement.
    """
    for key, wanted in (("_type", _STATEMENT), ("predicateType", _TEST_RESULT)):
        if statement[key] != wanted:
            raise ValueError(f"{key} is not {wanted}")
    (subject,) = statement["subject"]
    predicate = statement["predicate"]
    own = predicate[_OWN]
    (configuration,) = predicate["configuration"]
    found = Attestation(
        image_id=f"sha256:{subject['digest']['sha256']}",
        image=str(subject["name"]),
        when=str(own["finishedOn"]),
        revision=str(configuration["annotations"]["revision"]),
        passed=_names(predicate["passedTests"]),
        failed=_names(predicate["failedTests"]),
        skipped=_names(own["skippedTests"]),
    )
    if predicate["result"] != ("PASSED" if found.verified else "FAILED"):
        raise ValueError(f"the result {predicate['result']} is not what the tests say")
    return found


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("a list of tests is none")
    return tuple(value)


def _digits(image_id: str) -> str:
    """Return an id's digits, which are safe in a file's name.

    Raises:
        RequestError: it is no image's id.
    """
    found = _IMAGE_ID.fullmatch(image_id)
    if not found:
        raise RequestError(
            f'"{image_id}" is not an image\'s id',
            remedy="sha256: and 64 digits, as docker image inspect --format '{{.Id}}' prints",
        )
    return found[1]


def _damaged(path: Path, what: str) -> RequestError:
    return RequestError(
        f"the attestation cannot be used: {what}",
        where=str(path),
        remedy="remove it and verify the image again: ./inv verify",
    )
