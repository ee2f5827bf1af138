"""Query sets whose SQL is written once: for the few statements that a placement runs thousands of times.

Django takes longer to write such a statement than PostgreSQL takes to run it (measured with benchmarks/placement.py:
5.3 ms of Python per placement before, 1.6 ms after). The query is still the ORM's: it is built with marks in place of
the values, compiled, and kept; later calls put their values where the marks were. Values are whole numbers, times and
texts; what else changes the SQL (None, a bool) belongs into ``shape``. A row to insert needs no marks: its fields say
what stands where.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Model, QuerySet
from django.db.models.query import get_related_populators
from django.db.models.sql.subqueries import InsertQuery, UpdateQuery

Value = int | datetime | str
M = TypeVar("M", bound=Model)

#: No real value of these statements; within every column's range, or Django would leave a condition out.
_MARK = 2_000_000_000


@dataclass(frozen=True, slots=True)
class _Statement:
    sql: str
    #: The name of a value, or "", and the parameter that stood there: its type says how the value is handed over.
    parameters: tuple[tuple[str, Any], ...]
    compiler: Any
    converters: Any

    def filled(self, values: Mapping[str, Value]) -> list[Any]:
        return [_as(stood, values[name]) if name else stood for name, stood in self.parameters]


def _as(stood: Any, value: Any) -> Any:
    """The value as the driver wants it there."""
    return _prepared(value) if isinstance(value, datetime) else type(stood)(value)


def _prepared(value: Value) -> Any:
    return connection.ops.adapt_datetimefield_value(value) if isinstance(value, datetime) else value


def _mark(number: int, value: Value) -> Value:
    if isinstance(value, datetime):
        return datetime(1999, 1, 1, 0, 0, 0, number, tzinfo=UTC)
    return f"mark {number}" if isinstance(value, str) else _MARK + number


_KNOWN: dict[Hashable, _Statement] = {}
_INSERTS: dict[Hashable, str] = {}


def select(
    build: Callable[..., QuerySet[Any, tuple[Any, ...]]], values: Mapping[str, Value], shape: Hashable = None
) -> list[tuple[Any, ...]]:
    """The rows of ``build(**values)``, which must be a ``values_list``."""
    return _fetched(build, values, shape)[1]


def _fetched(
    build: Callable[..., QuerySet[Any, Any]], values: Mapping[str, Value], shape: Hashable
) -> tuple[Any, list[tuple[Any, ...]]]:
    """The compiler that wrote the query, and its rows with their columns converted."""

    def compiled(marks: Mapping[str, Value]) -> tuple[str, Any, Any, Any]:
        compiler: Any = build(**marks).query.get_compiler(connection.alias)
        sql, parameters = compiler.as_sql()
        return sql, parameters, compiler, compiler.get_converters([one[0] for one in compiler.select])

    known = _known(build, values, shape, compiled)
    with connection.cursor() as cursor:
        cursor.execute(known.sql, known.filled(values))
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    if known.converters:
        rows = [tuple(row) for row in known.compiler.apply_converters(rows, known.converters)]
    return known.compiler, rows


def objects(build: Callable[..., QuerySet[M]], values: Mapping[str, Value], shape: Hashable = None) -> list[M]:
    """The rows of ``build(**values)`` as objects, with what it names in ``select_related``; no annotations."""
    compiler, rows = _fetched(build, values, shape)
    # As django.db.models.query.ModelIterable does it.
    select, info = compiler.select, compiler.klass_info
    first, end = info["select_fields"][0], info["select_fields"][-1] + 1
    names = [column[0].target.attname for column in select[first:end]]
    related = get_related_populators(info, select, connection.alias)  # type: ignore[call-arg]
    found = []
    for row in rows:
        one = info["model"].from_db(connection.alias, names, row[first:end])
        for populator in related:
            populator.populate(row, one)
        found.append(one)
    return found


def update(
    build: Callable[..., tuple[QuerySet[Any], Mapping[str, Any]]], values: Mapping[str, Value], shape: Hashable = None
) -> int:
    """What ``rows.update(**changes)`` does for ``rows, changes = build(**values)``. Returns how many rows."""

    def compiled(marks: Mapping[str, Value]) -> tuple[str, Any, Any, Any]:
        rows, changes = build(**marks)
        query: Any = rows.query.chain(UpdateQuery)
        query.add_update_values(changes)
        compiler = query.get_compiler(connection.alias)
        return (*compiler.as_sql(), compiler, None)

    known = _known(build, values, shape, compiled)
    with connection.cursor() as cursor:
        cursor.execute(known.sql, known.filled(values))
        return int(cursor.rowcount)


def insert(rows: Sequence[Model]) -> None:
    """What ``bulk_create`` does for rows of one model: no signals, new keys in the rows, the same IntegrityError.

    One row's SQL is kept; for more it is worth writing anew.
    """
    if len(rows) == 1:
        _insert_one(rows[0])
    elif rows:
        type(rows[0])._default_manager.bulk_create(rows)


def _insert_one(row: Model) -> None:
    model = type(row)
    meta = model._meta
    fields = [field for field in meta.concrete_fields if not field.generated and not field.primary_key]
    values = [field.get_db_prep_save(field.pre_save(row, add=True), connection) for field in fields]
    key = (model, connection.vendor)
    sql = _INSERTS.get(key)
    if sql is None:
        query: Any = InsertQuery(model)
        query.insert_values(fields, [row])
        compiler = query.get_compiler(connection.alias)
        compiler.returning_fields = [meta.pk]
        ((sql, parameters),) = compiler.as_sql()
        if [type(one) for one in parameters] != [type(one) for one in values]:
            raise AssertionError(f"a column of {meta.label} takes its value in another way")
        _INSERTS[key] = sql
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        row.pk = cursor.fetchone()[0]
    row._state.adding = False
    row._state.db = connection.alias


def _known(
    build: Callable[..., Any],
    values: Mapping[str, Value],
    shape: Hashable,
    compiled: Callable[[Mapping[str, Value]], tuple[str, Any, Any, Any]],
) -> _Statement:
    key = (build.__module__, build.__qualname__, connection.vendor, shape)
    found = _KNOWN.get(key)
    if found is None:
        marks = {name: _mark(number, value) for number, (name, value) in enumerate(values.items())}
        names = {_prepared(mark): name for name, mark in marks.items()}
        sql, parameters, compiler, converters = compiled(marks)
        # A driver's own integers (psycopg's Int8) are integers too.
        marked = tuple((names.get(one, "") if isinstance(one, int | datetime | str) else "", one) for one in parameters)
        if missing := set(values) - {name for name, _ in marked}:
            raise AssertionError(f"the compiled statement of {build.__qualname__} has no place for {sorted(missing)}")
        found = _KNOWN[key] = _Statement(sql, marked, compiler, converters)
    return found
