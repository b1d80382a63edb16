"""Repairs of `bqemulator`'s translation from GoogleSQL to DuckDB where it changes results without an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import sqlglot
from bqemulator.jobs import executor
from bqemulator.sql.translator import SQLTranslator
from sqlglot import exp

if TYPE_CHECKING:
    from bqemulator.api.dependencies import AppContext

_CONCERNED = re.compile(r"\b(DIV|APPROX_QUANTILES)\s*\(", re.IGNORECASE)

_stock_translate = SQLTranslator.translate


def install() -> None:
    """Put the repairs in place, for the whole process; doing it again changes nothing."""
    SQLTranslator.translate = _translate  # type: ignore[method-assign]
    executor._LOAD_FORMAT_HANDLERS["PARQUET"] = _load_parquet  # noqa: SLF001  stock's table of loaders


def with_explicit_precedence(sql: str) -> str:
    """GoogleSQL with parentheses round the calls that lose their meaning in translation.

    BigQuery: `300 * DIV(x, 300)` divides first, `APPROX_QUANTILES(x, 2)[OFFSET(1)]` is the median. Stock turns the
    first into `300 * x // 300`, which is `x`, and the second into element 2, because it shifts the index twice.
    """
    if not _CONCERNED.search(sql):
        return sql
    try:
        statements = sqlglot.parse(sql, read="bigquery")
    except sqlglot.errors.SqlglotError:
        # Stock reports the error in BigQuery's words.
        return sql
    return ";\n".join(
        statement.transform(_parenthesize).sql("bigquery") for statement in statements if statement is not None
    )


def _parenthesize(node: exp.Expression) -> exp.Expression:
    loses_meaning = isinstance(node, exp.IntDiv) or (
        isinstance(node, exp.ApproxQuantiles) and isinstance(node.parent, exp.Bracket)
    )
    if loses_meaning and not isinstance(node.parent, exp.Paren):
        return exp.Paren(this=node.copy())
    return node


def _translate(self: SQLTranslator, bq_sql: str, **options: Any) -> Any:
    return _stock_translate(self, with_explicit_precedence(bq_sql), **options)


def _load_parquet(path: str, target_ref: str, ctx: AppContext) -> None:
    """Load a Parquet file by column name, as BigQuery does. Stock goes by position and mixes columns up."""
    ctx.engine.execute(f"INSERT INTO {target_ref} BY NAME SELECT * FROM read_parquet(?)", [path])  # noqa: S608  quoted
