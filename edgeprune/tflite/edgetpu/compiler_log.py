"""What `edgetpu_compiler` prints, read into one value. Its forms are those of version 16."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)"
_FAILURES = (
    r"Internal compiler error\. Aborting!.*",
    r"Model not quantized.*",
    r"Invalid model.*",
    r"ERROR:.*",
    r"Compilation failed.*",
)
_ROW = re.compile(r"^\s*([A-Z][A-Z0-9_]+|edgetpu-custom-op)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class OperatorStatus:
    """One row of the compiler's table.

    Attributes:
        operator: name in the TFLite schema.
        count: how many of them.
        status: in the compiler's words, such as `Mapped to Edge TPU`.
    """

    operator: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        """Whether they run on the Edge TPU."""
        return self.status.startswith("Mapped to Edge TPU")


@dataclass(frozen=True)
class CompilerLog:
    """What a run of the compiler said; what it did not say is `None`.

    Attributes:
        version: of the compiler.
        succeeded: it said that it compiled a model.
        milliseconds: that it took.
        on_chip_bytes: parameters that stay in the chip's memory.
        off_chip_bytes: parameters that are sent at every inference.
        subgraphs: that run on the Edge TPU.
        on_tpu: operators there.
        on_cpu: operators on the CPU.
        operators: the table.
        failure: the line that says why it failed.
    """

    version: str | None
    succeeded: bool
    milliseconds: int | None
    on_chip_bytes: int | None
    off_chip_bytes: int | None
    subgraphs: int | None
    on_tpu: int | None
    on_cpu: int | None
    operators: tuple[OperatorStatus, ...]
    failure: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return asdict(self)


def parse_log(text: str) -> CompilerLog:
    """Read what the compiler printed, or what is in its `.log` file.

    Where the summary has no counts, as when all operators are mapped, the table gives them.

    Args:
        text: of stdout, stderr and log together; anything.

    Example:
        >>> log = parse_log('''Edge TPU Compiler version 16.0.384591198
        ... Model compiled successfully in 3129 ms.
        ... On-chip memory used for caching model parameters: 4.49MiB
        ... CONV_2D          2          Mapped to Edge TPU''')
        >>> log.version, log.on_chip_bytes, log.on_tpu
        ('16.0.384591198', 4708106, 2)
    """
    rows = tuple(
        dict.fromkeys(
            OperatorStatus(kind, int(count), status) for kind, count, status in _ROW.findall(text)
        )
    )
    on_tpu = _number(r"Number of operations that will run on Edge TPU:\s*(\d+)", text)
    on_cpu = _number(r"Number of operations that will run on CPU:\s*(\d+)", text)
    if rows:
        on_tpu = sum(row.count for row in rows if row.mapped) if on_tpu is None else on_tpu
        on_cpu = sum(row.count for row in rows if not row.mapped) if on_cpu is None else on_cpu
    failures = [found for form in _FAILURES for found in re.findall(form, text)]
    return CompilerLog(
        version=_text(r"Edge TPU Compiler version\s+([\w.]+)", text),
        succeeded=bool(re.search(r"Models? compiled successfully", text)) and not failures,
        milliseconds=_number(r"compiled successfully in\s+(\d+)\s*ms", text),
        on_chip_bytes=_bytes(r"On-chip memory used for caching model parameters:\s*" + _SIZE, text),
        off_chip_bytes=_bytes(
            r"Off-chip memory used for streaming uncached model parameters:\s*" + _SIZE, text
        ),
        subgraphs=_number(r"Number of Edge TPU subgraphs:\s*(\d+)", text),
        on_tpu=on_tpu,
        on_cpu=on_cpu,
        operators=rows,
        failure=failures[0].strip() if failures else None,
    )


def _text(form: str, text: str) -> str | None:
    found = re.search(form, text)
    return found.group(1) if found else None


def _number(form: str, text: str) -> int | None:
    found = _text(form, text)
    return None if found is None else int(found)


def _bytes(form: str, text: str) -> int | None:
    found = re.search(form, text)
    return round(float(found.group(1)) * _UNITS[found.group(2)]) if found else None
