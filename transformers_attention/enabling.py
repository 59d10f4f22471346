"""One line for a model: its libraries are loaded, and its attentions are told to use them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..database.finder import ACCEPTED, NEAREST
from ..torch import Spec, load
from ..torch.errors import InvalidArgumentError
from ..torch.registry import has_kernel
from .attention import NAME
from .errors import NotBuiltError
from .libraries import built, default_cache, load_folders, stand_ins_in
from .models import is_decoder, models_in, packed_specs_of, specs_of, usual_side
from .passes import let_nothing_wait
from .reporting import Report
from .session import Session, attach
from .unpadding import unpad

_logger = logging.getLogger("prefilltune.transformers")

Folder = str | os.PathLike[str]


def enable(
    model: Any,
    library: Folder | Sequence[Folder] | None = None,
    *,
    strict: bool = False,
    check: str = "always",
    padding: str | None = None,
    layout: str | None = None,
    records: Folder | None = None,
    accept: str = "nearest",
    cache: Folder | None = None,
) -> Report:
    """Let tuned kernels serve the attentions of a model of transformers.

    Without ``library``, its attentions are read from its configuration, and what the records have
    of them is built, which takes a while the first time and a compiler. For inference: what kernels
    do not serve (decode steps, masks with holes, training) SDPA does, and the report tells.

    Parameters
    ----------
    model : PreTrainedModel or torch.nn.Module
        On its device and in its dtype; or a module with such a model in it, as
        ``SentenceTransformer`` is, which unpads its batches where there are packed kernels.
    library : path or sequence of paths, optional
        Folders that ``prefilltune build --output`` wrote, or folders of such folders.
    strict : bool
        Whether a call that no kernel serves, and an attention that no library has a kernel for, is
        an error.
    check : str
        ``always``: each forward pass looks at its mask, for which it waits on a GPU once, as
        transformers does for SDPA. ``never``: it waits for nothing and takes every sequence to be
        filled up on the side ``padding``; a sequence that is not gets NaN, by the device. While a
        graph is compiled or captured there is no looking: then this is so in any case.
    padding : str, optional
        ``right`` or ``left``: the side that is filled up where the mask is not looked at. When
        absent, the left of causal models, which decoders are, and the right of others.
    layout : str, optional
        ``padded`` or ``packed``: what kernels are built for, and wanted of ``library``; when
        absent, whichever there are.
    records : path, optional
        A database of your own to build from, besides the committed records; when absent, the one
        that commands take here.
    accept : str
        Whose records will do, as ``--accept`` of ``prefilltune build``.
    cache : path, optional
        Keeps what is built; ``~/.cache/prefilltune`` when absent.

    Returns
    -------
    Report
        What serves the model, and from now on what became of its calls.

    Raises
    ------
    UnsupportedModelError
        If it takes no attention function.
    InvalidArgumentError
        For another ``check``, ``padding``, ``layout`` or ``accept``.
    InvalidLibraryError
        If a library cannot be loaded.
    NotBuiltError
        With ``strict``, if an attention of it has no kernel.

    Examples
    --------
    >>> import prefilltune.transformers
    >>> report = prefilltune.transformers.enable(model)  # doctest: +SKIP
    """
    for name, given, allowed in (
        ("check", check, ("always", "never")),
        ("padding", padding or "right", ("right", "left")),
        ("layout", layout or "padded", ("padded", "packed")),
        ("accept", accept, (*ACCEPTED, NEAREST)),
    ):
        if given not in allowed:
            raise InvalidArgumentError(f"{name} is {given!r}; pass {' or '.join(allowed)}")
    models = models_in(model)
    report = Report()
    if library is not None:
        report.libraries = [each.path for each in load_folders(library)]
    for each in models:
        for padded, packed in zip(specs_of(each), packed_specs_of(each), strict=True):
            by_layout = {"padded": padded, "packed": [packed]}
            specs = [*padded, packed] if layout is None else by_layout[layout]
            device = each.device.type
            failure = ""
            if library is None:
                own = None if records is None else Path(records)
                kept = Path(cache or default_cache())
                failure = _load_built(specs, device, report, own, accept, kept)
            if not any(has_kernel(device, spec) for spec in specs):
                lacks = f"none of the libraries has {specs[0]}, for {device!r}, where the model is"
                report.missing.append(failure or lacks)
    if report.missing and strict:
        raise NotBuiltError("; ".join(report.missing))
    for missing in report.missing:
        _logger.warning("an attention is left to SDPA: %s", missing)
    for stand_in in report.stand_ins:
        _logger.warning("%s", stand_in)
    for each in models:
        session = Session(strict, padding or usual_side(each), check == "always", report)
        for part in each.modules():
            # The halves of an encoder-decoder have configurations of their own.
            if isinstance(part, PreTrainedModel):
                part.set_attn_implementation(NAME)
        attach(each, session)
        if is_decoder(each):
            let_nothing_wait(each)
        packed = [has_kernel(each.device.type, spec) for spec in packed_specs_of(each)]
        unpad(model, each, is_served=all(packed))
    return report


def _load_built(
    specs: Sequence[Spec],
    device: str,
    report: Report,
    records: Path | None,
    accept: str,
    cache: Path,
) -> str:
    """Load what can be built; why the first cannot, if it cannot."""
    failures, stand_ins = [], []
    for spec in specs:
        try:
            folder = built(spec, device, records, accept, cache)
        except NotBuiltError as error:
            failures.append((spec, str(error)))
        else:
            report.libraries.append(load(folder).path)
            stand_ins = stand_ins or stand_ins_in(folder)  # its own records serve all layouts
    report.stand_ins += stand_ins
    return next((why for spec, why in failures if spec == specs[0]), "")
