//! Hears of releases, on a connection of its own, and keeps the notes fresh that ask for them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::{interval, sleep, timeout};

use super::errors::{Phase, store_error};
use super::{MOST_GIVEN_UP, NOTE_FRESH, Shared};
use crate::lock::store::Outage;

const CHANNEL: &str = "arbitrageai_locks";
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Listens until the store is closed, connecting again whenever the connection is lost.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = listen(&shared) => {}
        () = keep_notes(&shared) => {}
    }
}

async fn keep_notes(shared: &Arc<Shared>) {
    let mut ticks = interval(NOTE_FRESH);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        shared.refresh_notes();
    }
}

async fn listen(shared: &Arc<Shared>) {
    let (mut pause, mut unanswered) = (FIRST_PAUSE, 0);
    let mut outage = Outage::default();
    loop {
        outage.attempt();
        if let Err(error) = hear(shared, &mut pause, &mut unanswered, &mut outage).await {
            let cause = match error {
                // The pool tries again and again where nobody listens, and keeps to itself why it was in vain.
                sqlx::Error::PoolTimedOut => {
                    let limit = shared.settings.connect_timeout.as_secs_f64();
                    format!("could not connect and listen within {limit} s")
                }
                error => store_error(&shared.settings, Phase::Connecting, &error).message,
            };
            outage.failed(&*shared.listener, &cause);
        }
        sleep(pause * 4_u32.pow(unanswered)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens on one connection until it fails. `unanswered` counts the connections that the server
/// has not answered; each of them lengthens the pause, so that such a server does not collect
/// connections.
async fn hear(
    shared: &Arc<Shared>,
    pause: &mut Duration,
    unanswered: &mut u32,
    outage: &mut Outage,
) -> sqlx::Result<()> {
    let Some(options) = shared.settings.listen_options() else {
        return std::future::pending().await;
    };
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(shared.settings.connect_timeout)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.ignore_pool_close_event(true);
    // A lost connection ends this attempt: the pauses between attempts are ours.
    listener.eager_reconnect(false);
    match timeout(shared.settings.connect_timeout, listener.listen(CHANNEL)).await {
        Ok(listening) => listening?,
        Err(_) => {
            *unanswered = (*unanswered + 1).min(MOST_GIVEN_UP);
            return Err(sqlx::Error::PoolTimedOut);
        }
    }
    (*pause, *unanswered) = (FIRST_PAUSE, 0);
    outage.over(&*shared.listener);
    // What was released before we listened, nobody told us.
    shared.listener.anything_changed();
    while let Some(notification) = listener.try_recv().await? {
        match notification.payload().parse::<i64>() {
            Ok(hash) => shared.listener.changed(hash.cast_unsigned()),
            Err(_) => shared.listener.anything_changed(),
        }
    }
    Ok(())
}
