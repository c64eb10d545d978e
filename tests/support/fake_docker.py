"""A fake ``docker`` command with the subcommands that bundles use; its engine is a folder.

``FAKE_DOCKER`` names the folder: ``images/ID`` has the layers of an image, ``tags.json`` the tags,
and ``archive.tar`` the output of ``docker save``. ``loads`` has a line with the layers of each
load.
"""

import json
import os
import sys
import tarfile
from pathlib import Path

HOME = Path(os.environ["FAKE_DOCKER"])


def _tags() -> dict:
    path = HOME / "tags.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _inspect(name: str) -> None:
    if not (HOME / "images" / name.partition(":")[2]).is_file():
        sys.exit(f"No such image: {name}")
    print(name)


def _load() -> None:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    if (HOME / "full").exists():
        sys.exit("write /var/lib/docker: no space left on device")
    (entry,) = json.loads(files["manifest.json"])
    config = json.loads(files[entry["Config"]])
    present = {
        tuple(layers[:count])
        for path in (HOME / "images").iterdir()
        for layers in [json.loads(path.read_text())]
        for count in range(len(layers) + 1)
    }
    diff_ids = config["rootfs"]["diff_ids"]
    for number, name in enumerate(entry["Layers"], 1):
        if name not in files and tuple(diff_ids[:number]) not in present:
            sys.exit(f"no such file: {name}")
    image = HOME / "images" / Path(entry["Config"]).name
    image.write_text(json.dumps(diff_ids))
    with (HOME / "loads").open("a") as log:
        log.write(" ".join(n for n in files if n in entry["Layers"]) + "\n")


def main() -> None:
    (HOME / "images").mkdir(exist_ok=True)
    match sys.argv[1:]:
        case ["info", *_]:
            print(HOME)
        case ["image", "inspect", *_, name]:
            _inspect(name)
        case ["load", *_]:
            _load()
        case ["tag", name, tag]:
            _inspect(name)
            (HOME / "tags.json").write_text(json.dumps({**_tags(), tag: name}))
        case ["save", *_]:
            sys.stdout.buffer.write((HOME / "archive.tar").read_bytes())
        case words:
            sys.exit(f"not known here: {words}")


main()
