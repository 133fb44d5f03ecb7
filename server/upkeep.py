"""What can be done to look after a store, by name: over HTTP, and by the command line on the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from kvfs.engine import Lease
from kvfs.errors import InvalidParameters
from kvfs.model import Retention
from kvfs.paths import Paths
from kvfs.pending import Pending
from kvfs.sql.maintenance import Checkpointed, Resized
from kvfs.status import Pruned, Rebuilt
from server import times

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What an op is asked to do: the members of its body, and until when (monotonic seconds)."""

    body: Json
    paths: Paths
    deadline: float


@dataclass(frozen=True, slots=True)
class Op:
    """One op. `begin` blocks, and gives what `form` shows, or a `Pending` of it.

    `database`: it is for a whole database file, else for a table or folder. `path` is the member of the
    body that names another database.
    """

    begin: Callable[[Lease, Asked], Any]
    form: Callable[[Any], Json]
    database: bool = True
    path: str | None = None


def op_of(body: Json) -> Op:
    """The op that a body asks for, with what it needs. Raises `InvalidParameters`."""
    name = body.get("op")
    if not isinstance(name, str) or name not in OPS:
        raise InvalidParameters(f"op must be one of: {', '.join(OPS)}")
    op = OPS[name]
    if op.path is not None and not isinstance(body.get(op.path), str):
        raise InvalidParameters(f"{op.path} is required")
    return op


def told(asked: Asked, duration_s: float, done: Any) -> Json:
    """What is answered when an op is done, so long after it was asked for."""
    name = asked.body["op"]
    op = OPS[name]
    told = {"success": True, "op": name, "duration_ms": round(duration_s * 1000, 3)}
    if op.path is not None:
        told[op.path] = asked.paths.resolve(asked.body[op.path])
    return told | op.form(done)


# --- of a table or folder ------------------------------------------------------------------------------


def _rebuild(lease: Lease, asked: Asked) -> Rebuilt:
    if not lease.handle.directory:
        raise InvalidParameters("rebuild is for directory stores: a table has nothing to rebuild")
    return lease.handle.rebuild(deadline=asked.deadline)


def _rebuilt_form(rebuilt: Rebuilt) -> Json:
    survey = rebuilt.survey
    return {
        "files": survey.files,
        "keys": rebuilt.keys,
        "changed": rebuilt.changed,
        "recorded": rebuilt.recorded,
        "ignored": dict(survey.ignored),
    }


def _history_prune(lease: Lease, asked: Asked) -> Pruned:
    before = asked.body.get("before")
    return lease.handle.prune(
        before_ns=None if before is None else times.of_json(before, "before"),
        keep_last=asked.body.get("keep_last"),
        deadline=asked.deadline,
    )


def _pruned_form(pruned: Pruned) -> Json:
    return {
        "removed": pruned.removed,
        "keys": pruned.keys,
        "complete": pruned.stopped_by is None,
        "stopped_by": pruned.stopped_by,
        "pruned_seq": pruned.pruned_seq,
        "freed_bytes": pruned.freed_bytes,
        "free_bytes": pruned.free_bytes,
    }


def _retention(lease: Lease, asked: Asked) -> Retention:
    changes = {name: asked.body[name] for name in ("keep_last", "max_age_s") if name in asked.body}
    if changes:
        return lease.handle.set_retention(**changes, deadline=asked.deadline)
    return lease.handle.retention(deadline=asked.deadline)


# --- of a database file --------------------------------------------------------------------------------


def _checkpoint(lease: Lease, asked: Asked) -> Pending[Checkpointed]:
    return lease.sql.maintenance.checkpoint(deadline=asked.deadline)


def _vacuum(lease: Lease, asked: Asked) -> Pending[Resized]:
    return lease.sql.maintenance.vacuum(deadline=asked.deadline)


def _optimize(lease: Lease, asked: Asked) -> Pending[None]:
    return lease.sql.maintenance.optimize(deadline=asked.deadline)


def _vacuum_into(lease: Lease, asked: Asked) -> int:
    path = asked.paths.file(asked.body["dest_path"], create=True)
    return lease.sql.maintenance.copy_into(path, deadline=asked.deadline)


def _restore(lease: Lease, asked: Asked) -> Pending[Resized]:
    path = asked.paths.file(asked.body["src_path"])
    return lease.sql.maintenance.restore(path, deadline=asked.deadline)


def _check(lease: Lease, asked: Asked) -> list[str]:
    quick = asked.body["op"] == "quick_check"
    return lease.sql.maintenance.check(quick=quick, deadline=asked.deadline)


def _resized_form(resized: Resized) -> Json:
    return {"size_before": resized.before_bytes, "size": resized.after_bytes}


def _checked_form(problems: list[str]) -> Json:
    return {"ok": not problems, "problems": problems}


def _nothing(_: None) -> Json:
    return {}


def _copied_form(size_bytes: int) -> Json:
    return {"size": size_bytes}


OPS: Final[Mapping[str, Op]] = {
    "rebuild": Op(_rebuild, _rebuilt_form, database=False),
    "wal_checkpoint_truncate": Op(_checkpoint, asdict),
    "vacuum_into": Op(_vacuum_into, _copied_form, path="dest_path"),
    "quick_check": Op(_check, _checked_form),
    "integrity_check": Op(_check, _checked_form),
    "optimize": Op(_optimize, _nothing),
    "vacuum": Op(_vacuum, _resized_form),
    "restore": Op(_restore, _resized_form, path="src_path"),
    "history_prune": Op(_history_prune, _pruned_form, database=False),
    "retention": Op(_retention, Retention._asdict, database=False),
}
