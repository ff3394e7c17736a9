//! A look at the server, in a transaction that may not write.

use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::errors::{Phase, store_error};
use super::observe::{LIST, read_rows};
use super::rule::now;
use super::{PostgresSettings, schema};
use crate::lock::error::StoreError;
use crate::lock::inspection::{Inspection, Tables};
use crate::lock::operation::LockRow;

const SERVER: &str = "\
SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on', \
coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), \
coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";
const MAY_WRITE: &str = "\
SELECT bool_and(has_table_privilege('distributed_locks', privilege)) \
FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege";
const CLOCK: &str = concat!("SELECT ", now!());

/// See [`crate::lock::inspect`].
pub(in crate::lock) async fn inspect(settings: &PostgresSettings) -> Result<Inspection, StoreError> {
    connected(settings, async |connection| examine(settings, connection).await).await
}

/// See [`crate::lock::look`].
pub(in crate::lock) async fn look(settings: &PostgresSettings) -> Result<Vec<LockRow>, StoreError> {
    connected(settings, async |connection| list(connection).await).await
}

async fn connected<T>(
    settings: &PostgresSettings,
    look: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> Result<T, StoreError> {
    let looking = async {
        let mut connection = settings.connect.connect().await?;
        let found = look(&mut connection).await;
        let _ = connection.close().await;
        found
    };
    match timeout(settings.connect_timeout, looking).await {
        Ok(found) => found.map_err(|error| store_error(settings, Phase::Connecting, &error)),
        Err(_) => Err(StoreError::transient(format!(
            "{}: no answer in time",
            settings.describe()
        ))),
    }
}

async fn list(connection: &mut PgConnection) -> sqlx::Result<Vec<LockRow>> {
    let mut transaction = connection.begin_with("BEGIN READ ONLY").await?;
    // Without this limit, the server waits for a locked table even after the client has
    // disconnected.
    transaction.execute("SET LOCAL lock_timeout = 2000").await?;
    let rows = if schema::missing_tables(&mut transaction)
        .await?
        .contains(&schema::LOCK_TABLE)
    {
        Vec::new()
    } else {
        sqlx::query(LIST)
            .persistent(false)
            .fetch_all(&mut *transaction)
            .await?
    };
    transaction.rollback().await?;
    read_rows(&rows)
}

async fn examine(settings: &PostgresSettings, connection: &mut PgConnection) -> sqlx::Result<Inspection> {
    let mut transaction = connection.begin_with("BEGIN READ ONLY").await?;
    let server = sqlx::query(SERVER)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let clock_ahead = clock_ahead(&mut transaction).await?;
    let missing = schema::missing_tables(&mut transaction).await?;
    let has_locks = !missing.contains(&schema::LOCK_TABLE);
    let difference = if has_locks {
        schema::difference(&mut transaction).await?
    } else {
        None
    };
    let may_write = !has_locks
        || sqlx::query_scalar(MAY_WRITE)
            .persistent(false)
            .fetch_one(&mut *transaction)
            .await?;
    transaction.rollback().await?;

    let says = |column: usize| server.try_get::<bool, _>(column);
    let (is_standby, is_read_only, may_make) = (says(1)?, says(2)?, says(3)?);
    let mut obstacles = Vec::new();
    if is_standby {
        obstacles.push("the server is a standby, where nothing can be written".to_owned());
    }
    if is_read_only {
        obstacles.push("transactions may not write: default_transaction_read_only is on".to_owned());
    }
    if !may_write {
        obstacles.push(format!(
            "the role may not read and write the table {}",
            schema::LOCK_TABLE
        ));
    }
    if !missing.is_empty() && !may_make {
        obstacles.push(schema::may_not_make());
    }
    Ok(Inspection {
        place: settings.describe(),
        server: format!("PostgreSQL {}", server.try_get::<String, _>(0)?),
        tables: difference.map_or(Tables::Usable { missing }, Tables::AnotherShape),
        clock_ahead: Some(clock_ahead),
        encrypted: Some(says(4)?),
        obstacles,
        cautions: Vec::new(),
    })
}

async fn clock_ahead(connection: &mut PgConnection) -> sqlx::Result<f64> {
    let before = unix_seconds();
    let server: f64 = sqlx::query_scalar(CLOCK)
        .persistent(false)
        .fetch_one(connection)
        .await?;
    Ok(server - f64::midpoint(before, unix_seconds()))
}

/// This machine's clock.
fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
