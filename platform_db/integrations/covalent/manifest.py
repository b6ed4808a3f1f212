"""A dispatch's manifest, as Covalent's server takes it in JSON.

What it has beside what is named here is kept, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from platform_db import errors
from platform_db.integrations.covalent.statuses import DispatchStatus
from platform_db.models.types import is_text


def _in_utc(time: datetime) -> datetime:
    """Covalent's own times are in UTC and do not say so."""
    if not 1 < time.year < 9999:  # It could be stored, but not be read in each zone.
        raise ValueError("the time is out of range")
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _text(text: str) -> str:
    if not is_text(text):
        raise ValueError("it has a NUL or half of a surrogate pair")
    return text


def _short(text: str) -> str:
    """An index has it."""
    if len(text.encode()) > LONGEST_NAME:
        raise ValueError(f"it must have at most {LONGEST_NAME} bytes")
    return text


def _run_name(name: str) -> str:
    if not 1 <= len(name.encode()) <= LONGEST_NAME:
        raise ValueError(f"it must have from 1 to {LONGEST_NAME} bytes")
    return name


LONGEST_NAME = 1024
Text = Annotated[str, AfterValidator(_text)]
Time = Annotated[datetime, AfterValidator(_in_utc)]
Id = Annotated[UUID | None, BeforeValidator(lambda id_: id_ or None)]  # The server gives what is empty.


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")

    def as_json(self, *without: str) -> dict[str, Any]:
        """Return what was given, but for these fields."""
        return self.model_dump(mode="json", exclude_unset=True, exclude=set(without))


class Asset(_Part):
    """Where the content of an asset is, and what it is."""

    size: int
    digest_alg: str | None = None
    digest: str | None = None
    uri: str | None = None
    remote_uri: str | None = None


Assets = dict[str, Asset | None]


class ElectronMetadata(_Part):
    """What is known of an electron."""

    task_group_id: int
    name: Text
    executor: Annotated[Text, AfterValidator(_short)]
    executor_data: dict[str, Any]
    status: DispatchStatus
    sub_dispatch_id: Id = None
    start_time: Time | None = None
    end_time: Time | None = None


class Electron(_Part):
    """A node of the graph."""

    id: int
    metadata: ElectronMetadata
    assets: Assets


class LinkMetadata(_Part):
    """What is passed along a link."""

    edge_name: Text
    param_type: str | None = None
    arg_index: int | None = None


class Link(_Part):
    """A link of the graph: the target depends on the source."""

    source: int
    target: int
    metadata: LinkMetadata


class TransportGraph(_Part):
    """The electrons of a lattice, and the links between them."""

    nodes: list[Electron]
    links: list[Link]

    @model_validator(mode="after")
    def _fits(self) -> TransportGraph:
        ids = {node.id for node in self.nodes}
        if len(ids) < len(self.nodes):
            raise ValueError("two nodes have one id")
        if stranger := next((end for link in self.links for end in {link.source, link.target} - ids), None):
            raise ValueError(f"a link leads to node {stranger}, which is not there")
        return self


class LatticeMetadata(_Part):
    """What is known of a lattice."""

    name: Annotated[Text, AfterValidator(_run_name)]
    executor: str
    executor_data: dict[str, Any]
    workflow_executor: str
    workflow_executor_data: dict[str, Any]


class Lattice(_Part):
    """What a dispatch runs."""

    metadata: LatticeMetadata
    assets: Assets
    transport_graph: TransportGraph


class DispatchMetadata(_Part):
    """What is known of a dispatch."""

    dispatch_id: Id = None
    root_dispatch_id: Id = None
    status: DispatchStatus
    start_time: Time | None = None
    end_time: Time | None = None


class Manifest(_Part):
    """A dispatch."""

    metadata: DispatchMetadata
    assets: Assets
    lattice: Lattice


def read_manifest(manifest: Mapping[str, Any] | str | bytes) -> Manifest:
    """Read a manifest.

    :raises errors.InvalidArgument: it is none; names the place.
    """
    try:
        if isinstance(manifest, str | bytes):
            return Manifest.model_validate_json(manifest)
        return Manifest.model_validate(manifest)
    except ValidationError as error:
        # Without the values: an executor's may be secret.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise errors.InvalidArgument(f"no manifest of a dispatch: {place}: {first['msg']}") from None
