"""Models compiled for the Edge TPU: the library that runs them, and why it cannot."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
from collections.abc import Callable

MARK = b"edgetpu-custom-op"
LIBRARY = "libedgetpu.so.1"
USB_NUMBERS = ("1a6e:089a", "18d1:9302")  # before and after it was given its program
# github.com/feranick/libedgetpu/releases; google-coral/libedgetpu, issue 53.
PAIRS = (
    "libedgetpu 16.0TF2.17.0 fits tflite-runtime 2.11.1 to 2.17.0, Google's 16.0 fits older ones"
)


def is_compiled(path: str) -> bool:
    """Tell whether a model has operators that only the Edge TPU runs."""
    with open(path, "rb") as file:
        return MARK in file.read()


def open_delegate(load: Callable, library: str, device: str) -> tuple[object, str]:
    """Load the library and open a device.

    Args:
        load: `load_delegate` of the runtime.
        library: its name, or its path.
        device: such as `usb:0`, `pci`, or nothing for any.

    Returns:
        The delegate, and what the library is and says of itself.
    """
    try:
        functions = ctypes.CDLL(library)
    except OSError as error:
        if str(error).startswith(f"{library}: cannot open"):
            raise RuntimeError(
                f"the Edge TPU's library {library} is not installed: sudo devices/provision/"
                "coral.sh"
            ) from None
        raise RuntimeError(f"the Edge TPU's library {library} does not load: {error}") from None
    if not hasattr(functions, "tflite_plugin_create_delegate"):
        raise RuntimeError(f"{library} is not the Edge TPU's library: it has no delegate")
    try:
        delegate = load(library, {"device": device} if device else {})
    except ValueError:  # libedgetpu says nothing
        raise RuntimeError(explain_absence(device)) from None
    return delegate, f"{os.path.basename(library)} ({read_version(functions)})"


def read_version(functions: ctypes.CDLL) -> str:
    """Return what the library says it is."""
    with contextlib.suppress(AttributeError):
        functions.edgetpu_version.restype = ctypes.c_char_p
        text = (functions.edgetpu_version() or b"").decode(errors="replace")
        number = re.search(r"RuntimeVersion\((\d+)\)", text)
        return f"runtime version {number.group(1)}" if number else text[:80]
    return "of unknown version"


def explain_absence(device: str, root: str = "/") -> str:
    """Say why the library found no device that it could open."""
    kind, _, number = device.partition(":")
    nodes = [node for found, node in find_devices(root) if kind in ("", found)]
    if not nodes:
        return (
            f"no Edge TPU{f' {device}' * bool(device)} is connected: there is no USB device "
            f"{' or '.join(USB_NUMBERS)} and no /dev/apex_0, which PCIe has with the driver gasket"
        )
    chosen = nodes[int(number) : int(number) + 1] if number else nodes
    if not chosen:
        return f"there is no Edge TPU {device}: only {', '.join(nodes)}"
    for node in chosen:
        if not os.access(node, os.R_OK | os.W_OK):
            return (
                f"this user may not use the Edge TPU {node}: sudo devices/provision/coral.sh, "
                "then plug it in again and log in again"
            )
        holder = find_holder(node, root)
        if holder:
            return f"the Edge TPU {node} is busy: process {holder} has it open"
    return f"the Edge TPU {chosen[0]} does not answer: plug it in again, and see what dmesg says"


def find_devices(root: str) -> list[tuple[str, str]]:
    """Return the kind and the device file of every Edge TPU that the system sees."""
    found = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/bus/usb/devices/*"))):
        facts = []
        for name in ("idVendor", "idProduct", "busnum", "devnum"):
            with contextlib.suppress(OSError), open(os.path.join(folder, name)) as file:
                facts.append(file.read().strip())
        if len(facts) == 4 and ":".join(facts[:2]) in USB_NUMBERS:
            place = "dev/bus/usb/" + "/".join(fact.zfill(3) for fact in facts[2:])
            found.append(("usb", os.path.join(root, place)))
    found += [("pci", node) for node in sorted(glob.glob(os.path.join(root, "dev/apex_[0-9]*")))]
    return found


def find_holder(node: str, root: str) -> str | None:
    """Return the number of another process that has a device open, as far as one may see it."""
    for link in glob.glob(os.path.join(root, "proc/[0-9]*/fd/*")):
        process = link.split(os.sep)[-3]
        with contextlib.suppress(OSError):
            if os.readlink(link) == node and process != str(os.getpid()):
                return process
    return None


def explain_refusal(reason: str) -> str:
    """Say why the library does not take a model that was compiled for it."""
    if "unresolved custom op" in reason:
        return f"its library takes none of its operators; {PAIRS}"
    if "runtime version" in reason:
        needed = re.sub(r"\.?Node number.*", "", reason)
        return f"{needed}: update the library, or compile with edgetpu_compiler -m VERSION"
    return reason


def explain_loss(reason: str) -> str:
    """Say what it means that an inference failed."""
    said = re.sub(r"\.?\s*Node number.*", "", " ".join(reason.split()))
    return f"the Edge TPU stopped answering ({said}): look at cable, supply and dmesg"
