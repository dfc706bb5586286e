"""Fashion-MNIST, and where its four files are fetched from."""

import gzip
import subprocess
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

from torchvision import datasets

from manifold.errors import UserError
from manifold.files import write_atomic
from manifold.settings import Data
from manifold.training.data.images import Images, from_arrays, required_folder
from manifold.training.progress import progress

# SHA-256 of the uncompressed files; gzip's own bytes differ between mirrors.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_TIMEOUT_SECONDS = 20


def open_fashion_mnist(data: Data) -> tuple[Images, Images, list[str]]:
    root = obtain_fashion_mnist(required_folder(data))
    train, test = (datasets.FashionMNIST(root, train=train) for train in (True, False))
    return (
        from_arrays(train.data.numpy(), train.targets.numpy(), data),
        from_arrays(test.data.numpy(), test.targets.numpy(), data),
        list(train.classes),
    )


def obtain_fashion_mnist(folder: Path) -> Path:
    """Make sure of Fashion-MNIST's four files in ``folder`` and return torchvision's root.

    They are looked for in ``folder`` itself (gzipped, as published), then where Debian's package
    installs them, then fetched from torchvision's mirror, then from Debian's package, unpacked
    without installing it. Every file is checked by the SHA-256 of its content.

    Raises:
        UserError: a file that is there is corrupt, or none of the sources can be reached.
    """
    raw = folder / "FashionMNIST" / "raw"
    for name, digest in FASHION_MNIST.items():
        path = raw / name
        if path.exists():
            _check_digest(path, path.read_bytes(), digest)
    if all((raw / name).exists() for name in FASHION_MNIST):
        return folder
    contents, refusals = None, []
    for source in (_from_folder(folder), _from_folder(DEBIAN_FOLDER)):
        try:
            contents = contents or source()
        except FileNotFoundError as error:
            refusals.append(str(error))
    for source in (_from_mirror, _from_debian):
        try:
            contents = contents or source()
        except (OSError, HTTPException, subprocess.SubprocessError, UserError) as error:
            refusals.append(f"{source.__doc__.splitlines()[0]}: {error}")
    if contents:
        for name, content in contents.items():
            write_atomic(raw / name, lambda partial, content=content: partial.write_bytes(content))
        return folder
    raise UserError(
        f"Fashion-MNIST is not in {folder} and cannot be fetched ({'; '.join(refusals)}); put "
        f"{', '.join(f'{name}.gz' for name in FASHION_MNIST)} into {folder}, or install Debian's "
        f"package {FASHION_MNIST_PACKAGE}"
    )


def _from_folder(folder: Path) -> Callable[[], dict[str, bytes]]:
    def read() -> dict[str, bytes]:
        missing = [name for name in FASHION_MNIST if not (folder / f"{name}.gz").is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {missing[0]}.gz")
        return {
            name: _unzip(folder / f"{name}.gz", digest) for name, digest in FASHION_MNIST.items()
        }

    return read


def _unzip(path: Path, digest: str) -> bytes:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is corrupt ({error}); delete it and run again") from error
    _check_digest(path, content, digest)
    return content


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    got = sha256(content).hexdigest()
    if got != expected:
        raise UserError(
            f"{path} is corrupt: the SHA-256 of its content is {got}, expected {expected}; delete "
            "it and run again to fetch it anew"
        )


def _from_mirror() -> dict[str, bytes]:
    """Download from torchvision's mirror."""
    (mirror, *_) = datasets.FashionMNIST.mirrors
    with tempfile.TemporaryDirectory() as temporary:
        for name in progress(
            FASHION_MNIST, what="Fashion-MNIST, torchvision's mirror", unit="file"
        ):
            with urllib.request.urlopen(
                f"{mirror}{name}.gz", timeout=DOWNLOAD_TIMEOUT_SECONDS
            ) as response:
                (Path(temporary) / f"{name}.gz").write_bytes(response.read())
        return _from_folder(Path(temporary))()


def _from_debian() -> dict[str, bytes]:
    """Download Debian's package and unpack it."""
    # apt gets lists and a cache of its own: no root is needed, and the system's stay as they are.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("lists/partial", "cache/archives/partial", "unpacked"):
            (folder / name).mkdir(parents=True)
        apt = ["apt-get", "-qq", "-o", f"Dir::State::Lists={folder}/lists"]
        apt += ["-o", f"Dir::Cache={folder}/cache"]
        apt += ["-o", "APT::Sandbox::User=root"]
        for command in (["update"], ["download", FASHION_MNIST_PACKAGE]):
            subprocess.run([*apt, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (package,) = folder.glob(f"{FASHION_MNIST_PACKAGE}_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "unpacked"], check=True)
        return _from_folder(folder / "unpacked" / DEBIAN_FOLDER.relative_to("/"))()
