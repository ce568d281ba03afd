"""A semantic layer told as schemas: of its logical tables, and of the base tables below them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from sqlglot import exp

from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.copilot.semantic.layer import SemanticLayer, key_column
from openarctic.copilot.semantic.model import Field, SemanticTable
from openarctic.errors import UserError


def logical_schema(layer: SemanticLayer) -> Schema:
    """See `SemanticLayer.logical`."""
    tables = {t.name.lower(): _logical_table(layer, t) for t in layer.model.tables if layer.base_of(t) or t.base_table.definition}
    shown = {name: table for name, table in tables.items() if table.columns}
    if not shown:
        return layer.base
    keyed = [dataclasses.replace(table, foreign_keys=tuple(_keys(layer, table, shown))) for table in shown.values()]
    return dataclasses.replace(layer.base, tables=tuple(keyed))


def _logical_table(layer: SemanticLayer, table: SemanticTable) -> Table:
    base = layer.base_of(table)
    columns = {item.name.lower(): column for item in table.fields if (column := _logical_column(layer, table, item, base))}
    private = {item.name.lower() for item in table.fields if item.is_private}
    private |= {below.lower() for item in table.fields if item.is_private and (below := layer.column(table, item))}
    for name in _joined_columns(layer, table):
        plain = base.column(name) if base is not None else None
        if plain is not None and name.lower() not in private and _field_of(layer, table, name) is None:
            columns.setdefault(name.lower(), plain)
    key = table.primary_key.columns if table.primary_key else ()
    return Table(
        name=table.name,
        columns=tuple(columns.values()),
        primary_key=key if all(name.lower() in columns for name in key) else (),
        row_count=base.row_count if base is not None else None,
        comment=table.description or (base.comment if base is not None else ""),
    )


def _logical_column(layer: SemanticLayer, table: SemanticTable, item: Field, base: Table | None) -> Column | None:
    """None for what is private, cannot be computed, or needs columns that are not there (or may not be seen)."""
    if item.is_private:
        return None
    try:
        tree = layer.field(table, item.name, table.name)
    except UserError:
        return None
    if base is not None and any(base.column(c.name) is None for c in tree.find_all(exp.Column)):
        return None
    name = layer.column(table, item)
    below = base.column(name) if base is not None and name else None
    type_ = item.data_type or (below.type if below else "")
    values = below.values if below else ()
    if not values and layer.shows_samples and not Column(name=item.name, type=type_).is_numeric:
        values = item.sample_values
    return Column(name=item.name, type=type_, values=values, comment=item.description or (below.comment if below else ""))


def _joined_columns(layer: SemanticLayer, table: SemanticTable) -> Iterator[str]:
    """Columns that relationships join by, whether or not they are fields."""
    for relationship in layer.model.relationships:
        for side, column in ((relationship.left_table, "left_column"), (relationship.right_table, "right_column")):
            if side.lower() == table.name.lower():
                yield from (getattr(pair, column) for pair in relationship.relationship_columns if not pair.type)


def _keys(layer: SemanticLayer, table: Table, shown: dict[str, Table]) -> Iterator[ForeignKey]:
    """Relationships; and keys of the database between columns that both are fields, where no relationship says the same."""
    found: set[str] = set()
    for relationship in layer.model.relationships:
        right = shown.get(relationship.right_table.lower())
        if relationship.left_table.lower() == table.name.lower() and right is not None:
            for pair in relationship.relationship_columns:
                mine, its = _shown(layer, table, pair.left_column), _shown(layer, right, pair.right_column)
                if mine and its and not pair.type:
                    found.add(mine.name.lower())
                    yield ForeignKey(column=mine.name, table=right.name, to_column=its.name)
    logical = layer.model.table(table.name)
    base = layer.base_of(logical) if logical else None
    for key in base.foreign_keys if logical and base else ():
        mine_name = _field_of(layer, logical, key.column)
        others = [t for t in layer.model.tables if t.base_table.table.lower() == key.table.lower() and t.name.lower() in shown]
        its_name = _field_of(layer, others[0], key.to_column) if len(others) == 1 else None
        if mine_name and its_name and mine_name.lower() not in found:
            yield ForeignKey(column=mine_name, table=others[0].name, to_column=its_name)


def _shown(layer: SemanticLayer, table: Table, name: str) -> Column | None:
    """The column that a relationship means by a name: a field's, or a base column's, which a field may have renamed."""
    renamed = _field_of(layer, layer.model.table(table.name), name)
    return table.column(name) or (table.column(renamed) if renamed else None)


def _field_of(layer: SemanticLayer, table: SemanticTable | None, column: str) -> str | None:
    """The public field that is a base column."""
    if table is None:
        return None
    names = (f.name for f in table.fields if not f.is_private and (layer.column(table, f) or "").lower() == column.lower())
    return next(names, None)


def overlaid_schema(layer: SemanticLayer) -> Schema:
    """The base tables and columns that the model names, with its descriptions and relationships, without what is private."""
    modelled: dict[str, list[SemanticTable]] = {}
    for table in layer.model.tables:
        if (base := layer.base_of(table)) is not None:
            modelled.setdefault(base.name, []).append(table)
    if not modelled:
        return layer.base
    keys = _relationship_keys(layer)
    tables = tuple(
        _overlaid_table(layer, base, modelled[base.name], keys.get(base.name, []))
        for base in layer.base.tables
        if base.name in modelled
    )
    kept = {t.name.lower(): t for t in tables}
    return dataclasses.replace(layer.base, tables=tuple(_with_possible_keys(t, kept) for t in tables))


def _overlaid_table(layer: SemanticLayer, base: Table, tables: Sequence[SemanticTable], keys: Sequence[ForeignKey]) -> Table:
    told: dict[str, Field] = {}
    hidden: set[str] = set()
    used = {name.lower() for name in base.primary_key} | {key.column.lower() for key in (*base.foreign_keys, *keys)}
    for table in tables:
        for item in table.fields:
            column = layer.column(table, item)
            if item.is_private:
                hidden |= {column.lower()} if column else set()
                continue
            if column:
                told.setdefault(column.lower(), item)
            used |= _column_names(layer, table, item)
    shown = [
        c for c in base.columns if c.name.lower() not in hidden and (c.name.lower() in used or not any(t.fields for t in tables))
    ]
    comment = next((t.description for t in tables if t.description), "")
    declared = [key for key in base.foreign_keys if key not in keys]
    return dataclasses.replace(
        base,
        columns=tuple(_overlaid_column(c, told.get(c.name.lower()), layer.shows_samples) for c in shown or base.columns),
        foreign_keys=(*declared, *keys),
        comment=comment or base.comment,
    )


def _column_names(layer: SemanticLayer, table: SemanticTable, item: Field) -> set[str]:
    try:
        return {column.name.lower() for column in layer.field(table, item.name, table.name).find_all(exp.Column)}
    except UserError:
        return set()


def _overlaid_column(column: Column, item: Field | None, shows_samples: bool) -> Column:
    if item is None:
        return column
    values = column.values or (item.sample_values if shows_samples and not column.is_numeric else ())
    return dataclasses.replace(column, values=values, comment=item.description or column.comment)


def _relationship_keys(layer: SemanticLayer) -> dict[str, list[ForeignKey]]:
    """The model's relationships between columns as foreign keys, by base table."""
    keys: dict[str, list[ForeignKey]] = {}
    for relationship in layer.model.relationships:
        left, right = layer.model.table(relationship.left_table), layer.model.table(relationship.right_table)
        mine = layer.base_of(left) if left else None
        its = layer.base_of(right) if right else None
        if left is None or right is None or mine is None or its is None:
            continue
        for pair in relationship.relationship_columns:
            column = key_column(layer, left, pair.left_column)
            to_column = key_column(layer, right, pair.right_column)
            if column and to_column and not pair.type:
                key = ForeignKey(column=column, table=its.name, to_column=to_column)
                if key not in keys.setdefault(mine.name, []):
                    keys[mine.name].append(key)
    return keys


def _with_possible_keys(table: Table, kept: dict[str, Table]) -> Table:
    keys = tuple(
        key
        for key in table.foreign_keys
        if table.column(key.column) and (other := kept.get(key.table.lower())) and other.column(key.to_column)
    )
    return dataclasses.replace(table, foreign_keys=keys)
