//! A row that was found.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{Row as _, ValueRef as _};

use crate::lock::operation::LockRow;
use crate::lock::store::is_a_date;

/// A row, and why its expiry can't be read, if it can't.
pub(super) struct Standing {
    pub(super) row: LockRow,
    pub(super) unreadable: Option<&'static str>,
}

/// The key in the first column.
pub(super) fn read_key(row: &PgRow) -> sqlx::Result<Arc<str>> {
    text(row, 0).map(Into::into)
}

/// Reads the row of a key from the columns of `row_columns!`, from the column `from` on. Values that
/// another program wrote never make the reading fail. A row whose expiry can't be read never
/// expires.
pub(super) fn read_row(row: &PgRow, from: usize, key: Arc<str>) -> sqlx::Result<Standing> {
    let time = |column: usize| row.try_get::<Option<f64>, _>(from + column);
    let expires_at = time(3)?;
    let unreadable = match expires_at {
        None => Some("its expires_at is NULL"),
        Some(time) if time.is_nan() => Some("its expires_at is NaN"),
        Some(_) => None,
    };
    let or_never = |time: Option<f64>| time.filter(|time| !time.is_nan()).unwrap_or(f64::INFINITY);
    Ok(Standing {
        row: LockRow {
            key,
            id: text(row, from)?,
            holder: text(row, from + 1)?,
            acquired_at: time(2)?.filter(|time| is_a_date(*time)).unwrap_or(0.0),
            expires_at: or_never(expires_at),
            expires_in: or_never(time(4)?),
        },
        unreadable,
    })
}

fn text(row: &PgRow, column: usize) -> sqlx::Result<String> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(String::new());
    }
    // A server without an encoding (SQL_ASCII) sends any bytes.
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}
