"""What of a bank is compared with: the pools of its active references, as far as they lie in the region of interest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from anomalib_nagl.bank.abnormal import AbnormalPools
from anomalib_nagl.bank.adapted import Limits, ReferencePatches
from anomalib_nagl.bank.border import check_pools
from anomalib_nagl.bank.interest import Floats, everywhere, keep_views, of_settings
from anomalib_nagl.bank.moment_rows import RunningSums
from anomalib_nagl.bank.pool_rows import JoinedPool, PartPool, PoolReader
from anomalib_nagl.bank.reference import Reference
from anomalib_nagl.bank.reference_rows import check_usable, pools_of
from anomalib_nagl.bank.region_pools import RegionPools, check_inside
from anomalib_nagl.bank.setting_rows import settings_of
from anomalib_nagl.bank.views import cells_of, views_of

Found = Mapping[str, Mapping[str, PartPool]]  # pools by the uid of their reference and by role


class Compared(NamedTuple):
    """Patches that are compared with, and the references whose they are, in the same order: normal ones first."""

    patches: ReferencePatches
    references: tuple[Reference, ...]


class ComparedReader:
    """Reads what is compared with, and keeps of it in memory what was asked for last.

    ``connect`` opens the bank for reading, ``facts`` are those of its model.
    """

    def __init__(
        self, connect: Callable[[], AbstractContextManager[sqlite3.Connection]], facts: Mapping[str, Any]
    ) -> None:
        width, cells = int(facts["dim"]), cells_of(facts)
        self._facts, self.pools = facts, PoolReader(connect, width, cells)
        self._new_sums = partial(RunningSums, self.pools.connected, width)
        self._regions, self._sums, self._summed = RegionPools(width, cells), self._new_sums(), b""

    def read(self, connection: sqlite3.Connection, references: Sequence[Reference], region: Floats) -> Compared:
        """What is compared with at this moment; EdgeError unless every active reference has the pools of its kind."""
        stored = pools_of(connection, self.pools)
        self.pools.forget({pool.row for roles in stored.values() for pool in roles.values()})
        for one in references:
            if one.active:
                sizes = {role: len(pool) for role, pool in stored.get(one.uid, {}).items()}
                check_pools(one, sizes, bool(self._facts.get("shifted_grid")), cells_of(self._facts))
        keep = keep_views(region, self._facts)
        summed = b"" if keep is None else np.packbits(keep).tobytes()
        if summed != self._summed:  # of the same pools, but of other patches
            self._sums, self._summed = self._new_sums(), summed
        found: Found = stored if keep is None else self._regions.of(connection, stored, keep)
        return self._ordered(references, found, region)

    def _ordered(self, references: Sequence[Reference], found: Found, region: Floats) -> Compared:
        """The pools of active references, in an order that does not depend on when they were added.

        A normal reference that shows nothing of the ``region``, and a defect that lies outside, have no part.
        """
        facts, whole = self._facts, everywhere(region)
        shown = [one for one in references if one.active and (whole or len(found[one.uid][_leading(one)]))]
        ordered = sorted(shown, key=lambda one: (one.kind == "abnormal", found[one.uid][_leading(one)].key))
        normal = tuple(found[one.uid]["normal"] for one in ordered if one.kind != "abnormal")
        abnormal = tuple(
            AbnormalPools(roles["marked"], roles["away"], JoinedPool(roles["away"], roles["near"]), one.localized)
            for one in ordered if one.kind == "abnormal" for roles in (found[one.uid],)
        )  # fmt: skip
        patches = ReferencePatches(
            normal,
            abnormal,
            (int(facts["grid"][0]), int(facts["grid"][1])),
            int(facts["dim"]),
            bool(facts["context"]),
            Limits.of(facts["bank_limit"]),
            bool(facts["shared_mining"]),
            views_of(facts),
            self._sums.over,
            region,
        )
        return Compared(patches, tuple(ordered))


def check_comparable(connection: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    """Raise EdgeError unless a bank that was changed can be compared with, and has settings that can be."""
    check_usable(connection)
    settings = settings_of(connection)  # what was taken back may be what somebody else wrote
    keep = keep_views(of_settings(settings, facts), facts)
    if keep is not None:
        check_inside(connection, keep)


def _leading(one: Reference) -> str:
    """The role by which a reference counts."""
    return "marked" if one.kind == "abnormal" else "normal"
