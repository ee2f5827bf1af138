"""Query sets whose SQL is written once: for the few statements that a placement runs thousands of times.

Django takes longer to write such a statement than PostgreSQL takes to run it (measured with benchmarks/placement.py:
5.3 ms of Python per placement before, 1.6 ms after). The query is still the ORM's: it is built with marks in place of
the values, compiled, and kept; later calls put their values where the marks were. Values are whole numbers, and what
else changes the SQL belongs into ``shape``. A row to insert needs no marks: its fields say what stands where.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Model, QuerySet
from django.db.models.sql.subqueries import InsertQuery, UpdateQuery

#: No real value of these statements; within every column's range, or Django would leave a condition out.
_MARK = 2_000_000_000


@dataclass(frozen=True, slots=True)
class _Statement:
    sql: str
    #: The name of a value, or "", and the parameter that stood there: its type says how the value is handed over.
    parameters: tuple[tuple[str, Any], ...]
    compiler: Any
    converters: Any

    def filled(self, values: Mapping[str, int]) -> list[Any]:
        return [type(stood)(values[name]) if name else stood for name, stood in self.parameters]


_KNOWN: dict[Hashable, _Statement] = {}
_INSERTS: dict[Hashable, str] = {}


def select(
    build: Callable[..., QuerySet[Any, tuple[Any, ...]]], values: Mapping[str, int], shape: Hashable = None
) -> list[tuple[Any, ...]]:
    """The rows of ``build(**values)``, which must be a ``values_list``."""

    def compiled(marks: Mapping[str, int]) -> tuple[str, Any, Any, Any]:
        compiler: Any = build(**marks).query.get_compiler(connection.alias)
        sql, parameters = compiler.as_sql()
        return sql, parameters, compiler, compiler.get_converters([one[0] for one in compiler.select])

    known = _known(build, values, shape, compiled)
    with connection.cursor() as cursor:
        cursor.execute(known.sql, known.filled(values))
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    if known.converters:
        return [tuple(row) for row in known.compiler.apply_converters(rows, known.converters)]
    return rows


def update(
    build: Callable[..., tuple[QuerySet[Any], Mapping[str, Any]]], values: Mapping[str, int], shape: Hashable = None
) -> int:
    """What ``rows.update(**changes)`` does for ``rows, changes = build(**values)``. Returns how many rows."""

    def compiled(marks: Mapping[str, int]) -> tuple[str, Any, Any, Any]:
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
    values: Mapping[str, int],
    shape: Hashable,
    compiled: Callable[[Mapping[str, int]], tuple[str, Any, Any, Any]],
) -> _Statement:
    key = (build.__module__, build.__qualname__, connection.vendor, shape)
    found = _KNOWN.get(key)
    if found is None:
        names = {_MARK + number: name for number, name in enumerate(values)}
        sql, parameters, compiler, converters = compiled({name: mark for mark, name in names.items()})
        # A driver's own integers (psycopg's Int8) are integers too.
        marked = tuple((names.get(int(one), "") if isinstance(one, int) else "", one) for one in parameters)
        if missing := set(values) - {name for name, _ in marked}:
            raise AssertionError(f"the compiled statement of {build.__qualname__} has no place for {sorted(missing)}")
        found = _KNOWN[key] = _Statement(sql, marked, compiler, converters)
    return found
