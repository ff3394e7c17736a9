//! Hears of releases, on a connection of its own: it subscribes to the channels of the keys that are waited for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{ErrorKind, RedisError, RedisResult, Value};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::errors::{Phase, store_error};
use super::{Shared, keys};
use crate::lock::store::Outage;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Channels stay subscribed for so long, at the least, after the last who waited: the next one may be about to come. As often
/// the connection is tried.
const LINGER: Duration = Duration::from_secs(10);

/// Listens until the store is closed, connecting again whenever the connection is lost.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = listen(&shared) => {}
    }
}

async fn listen(shared: &Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut outage = Outage::default();
    loop {
        outage.attempt();
        if let Err(error) = hear(shared, &mut pause, &mut outage).await {
            let cause = store_error(&shared.settings, Phase::Connecting, &error).message;
            outage.failed(&*shared.listener, &cause);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn hear(shared: &Arc<Shared>, pause: &mut Duration, outage: &mut Outage) -> RedisResult<()> {
    let settings = &shared.settings;
    let connected = in_time(settings.connect_timeout, settings.client.get_async_pubsub()).await?;
    let (mut sink, mut messages) = connected.split();
    shared.work().subscribed.clear();
    let patience = settings.keepalive.probing();
    let mut ticks = interval(LINGER.min(settings.keepalive.idle));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let new: Vec<u64> = {
            let work = shared.work();
            let is_new = |hash: &u64| !work.subscribed.contains(hash);
            work.watched.keys().copied().filter(is_new).collect()
        };
        if !new.is_empty() {
            let channels: Vec<String> = new.iter().copied().map(keys::channel).collect();
            in_time(patience, sink.subscribe(channels)).await?;
            *pause = FIRST_PAUSE;
            outage.over(&*shared.listener);
            for hash in new {
                shared.work().subscribed.insert(hash);
                // What was released before we listened, nobody told us.
                shared.listener.changed(hash);
            }
        }
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => match keys::hash_of_channel(message.get_channel_name()) {
                    Some(hash) => shared.listener.changed(hash),
                    None => shared.listener.anything_changed(),
                },
                None => return Ok(()),
            },
            () = shared.more_watched.notified() => {}
            _ = ticks.tick() => {
                let old: Vec<u64> = {
                    let work = shared.work();
                    let is_old = |hash: &u64| !work.watched.contains_key(hash);
                    work.subscribed.iter().copied().filter(is_old).collect()
                };
                if old.is_empty() {
                    in_time(patience, sink.ping::<Value>()).await?;
                } else {
                    let channels: Vec<String> = old.iter().copied().map(keys::channel).collect();
                    in_time(patience, sink.unsubscribe(channels)).await?;
                    shared.work().subscribed.retain(|hash| !old.contains(hash));
                }
            }
        }
    }
}

async fn in_time<T>(patience: Duration, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(patience, answer)
        .await
        .unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no answer in time"))))
}
