//! A look at the server: what it is, and what time it is there.

use redis::{AsyncConnectionConfig, RedisResult, cmd};
use tokio::time::timeout;

use super::RedisSettings;
use super::errors::{Phase, no_answer, store_error};
use super::values::seconds;
use crate::lock::error::StoreError;
use crate::lock::inspection::{Inspection, Tables};
use crate::lock::store::sqlite::system_clock;

/// See [`crate::lock::inspect`].
pub(in crate::lock) async fn inspect(settings: &RedisSettings) -> Result<Inspection, StoreError> {
    match timeout(settings.connect_timeout, look(settings)).await {
        Ok(found) => found.map_err(|error| store_error(settings, Phase::Connecting, &error)),
        Err(_) => Err(no_answer(settings, Phase::Connecting)),
    }
}

async fn look(settings: &RedisSettings) -> RedisResult<Inspection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let mut connection = settings
        .client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let clock = system_clock();
    let before = clock();
    let (whole, micros): (i64, i64) = cmd("TIME").query_async(&mut connection).await?;
    let clock_ahead = seconds(whole * 1_000_000 + micros) - f64::midpoint(before, clock());
    // A user of its own for the locks may not ask this, and need not.
    let about: String = cmd("INFO").query_async(&mut connection).await.unwrap_or_default();
    let mut obstacles = Vec::new();
    if field(&about, "role") == Some("slave") {
        obstacles.push("the server is a replica, where nothing can be written".to_owned());
    }
    let mut cautions = Vec::new();
    let policy = field(&about, "maxmemory_policy").unwrap_or("noeviction");
    if policy != "noeviction" && field(&about, "maxmemory") != Some("0") {
        cautions.push(format!(
            "when memory runs out the server drops keys, locks among them: maxmemory-policy is {policy}"
        ));
    }
    Ok(Inspection {
        place: settings.place.clone(),
        server: server(&about),
        tables: Tables::NotNeeded,
        clock_ahead: Some(clock_ahead),
        encrypted: None,
        obstacles,
        cautions,
    })
}

fn server(about: &str) -> String {
    match (field(about, "valkey_version"), field(about, "redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, Some(version)) => format!("Redis {version}"),
        (None, None) => String::new(),
    }
}

/// A line of `INFO`.
fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}
