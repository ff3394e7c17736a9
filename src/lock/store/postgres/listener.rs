//! Hears of releases, on a connection of its own, and keeps the notes fresh that ask for them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Acquire as _, ConnectOptions as _, Executor as _};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use super::errors::{Phase, store_error};
use super::{NOTE_FRESH, Shared};
use crate::lock::store::Outage;

const CHANNEL: &str = "arbitrageai_locks";
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often it is looked whether a connection has shown if a pooler is in between.
const LOOK: Duration = Duration::from_millis(50);

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
    while shared.may_listen().is_none() {
        sleep(LOOK).await;
    }
    if shared.may_listen() == Some(false) {
        return std::future::pending().await;
    }
    let mut pause = FIRST_PAUSE;
    let mut outage = Outage::default();
    loop {
        outage.attempt();
        if let Err(error) = hear(shared, &mut pause, &mut outage).await {
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
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens on one connection until it fails.
async fn hear(shared: &Arc<Shared>, pause: &mut Duration, outage: &mut Outage) -> sqlx::Result<()> {
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
            close(shared, options, listener).await;
            return Err(sqlx::Error::PoolTimedOut);
        }
    }
    *pause = FIRST_PAUSE;
    outage.over(&*shared.listener);
    // What was released before we listened, nobody told us.
    shared.listener.anything_changed();
    shared.listener.connected_anew();
    let keepalive = &shared.settings.keepalive;
    let mut heard_at = Instant::now();
    loop {
        tokio::select! {
            notification = listener.try_recv() => match notification? {
                Some(notification) => match notification.payload().parse::<i64>() {
                    Ok(hash) => shared.listener.changed(hash.cast_unsigned()),
                    Err(_) => shared.listener.anything_changed(),
                },
                None => return Ok(()),
            },
            () = sleep_until(heard_at + keepalive.idle), if keepalive.on => {
                match timeout(keepalive.probing(), listener.execute("")).await {
                    Ok(answer) => {
                        answer?;
                    }
                    Err(_) => {
                        close(shared, options, listener).await;
                        return Err(sqlx::Error::PoolTimedOut);
                    }
                }
            }
        }
        heard_at = Instant::now();
    }
}

/// Closes the connection of a listener that the server does not answer.
///
/// Dropping such a listener would not close it, because sqlx first sends `UNLISTEN` and waits for
/// the answer. So the listener gets another connection in its place, and does that there. A lane
/// leaves its place to that connection meanwhile. As long as the server answers no connection at
/// all, the old one stays: a server that does not answer must not collect connections.
async fn close(shared: &Arc<Shared>, options: &PgConnectOptions, mut listener: PgListener) {
    let mut pause = FIRST_PAUSE;
    loop {
        let lane = shared.vacant_lane();
        let living = timeout(shared.settings.connect_timeout, options.connect()).await;
        if let Ok(Ok(living)) = living
            && let Ok(dead) = listener.acquire().await
        {
            *dead = living;
            drop(listener);
            shared.put_to_work(lane);
            return;
        }
        shared.put_to_work(lane);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
